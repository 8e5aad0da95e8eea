import { Redis } from "@upstash/redis";

/** Without the JSON guessing of this client, which would turn ids and text into other types. */
export const redis = new Redis({
  url: process.env.UPSTASH_REDIS_REST_URL!,
  token: process.env.UPSTASH_REDIS_REST_TOKEN!,
  automaticDeserialization: false,
});
