"""Every setting, limit and time: default beside unit beside reason.

A group for each concern; a module is handed the one that it needs, from `config`. Names of variables are public
(protocol 8); what is not named there is `QSTREAMD_…` with its unit at the end. Rules between settings: `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.config.redis_url import ALLOWED, SCHEMES, deployment
from daemon.config.sources import Group, Source, setting
from daemon.config.types import Several, seconds, secret, server_url, text, web_url, whole

# a table: kind, name, default and reason of a setting, in two lines at most
# fmt: off
Text = Annotated[str, text()]
Time = Annotated[float, seconds()]
Port = Annotated[int, whole("", least=0, most=65_535)]
Host = Annotated[str, text(r"[^\s/]+", "a host name or an address")]
WebUrl = Annotated[str, web_url()]
RedisUrl = Annotated[SecretStr, server_url(*SCHEMES, allowed=ALLOWED, check=deployment)]
PostgresUrl = Annotated[SecretStr, server_url("postgresql", "postgres")]
Key = Annotated[SecretStr, secret()]
ApiKey = Annotated[SecretStr, secret(
    r"[A-Za-z0-9._-]+:(sha256:[0-9a-f]{64}|[^\s:]{16,})", "name:key (16 characters at least) or name:sha256:hex")]
Origin = Annotated[str, text(r"https?://[^\s/?#]+|\*", "scheme://host[:port] or *")]
Places = Annotated[int, whole("tasks")]
Slots = Annotated[int, whole("attempts", most=10_000)]


class RuntimeSettings(Group):
    """What this process is."""

    environment: Annotated[str, text(r"[a-z][a-z0-9_-]{0,31}", "a lower-case word")] = setting("NODE_ENV", "production",
        "absent means production, so that a forgotten variable is never unsafe")
    services_file: Text | None = setting("SERVICES_FILE", None,
        "models, services and queues as TOML; unset: the shipped default, which serves the demo")
    log_level: Literal["debug", "info", "warning", "error"] = setting("QSTREAMD_LOG_LEVEL", "info",
        "info is one line for each attempt")
    log_format: Literal["auto", "json", "pretty"] = setting("QSTREAMD_LOG_FORMAT", "auto",
        "auto: pretty on a terminal, else one JSON object a line")
    queues: Text | None = setting("QSTREAMD_QUEUES", None,
        "what the shipped unit and compose file hand to --queues; the daemon itself reads the option only")
    failpoints: Text | None = setting("QSTREAMD_FAILPOINTS", None,
        "crash points of the chaos suites, see daemon/dev/failpoints.py; needs NODE_ENV=development")
    traces_endpoint: WebUrl | None = setting("OTEL_EXPORTER_OTLP_ENDPOINT", None,
        "where spans go by OTLP over HTTP; needs the extra `otel`, which reads its other OTEL_… variables itself")
    no_color: Text | None = setting("NO_COLOR", None, "set to anything: no colours, as everywhere")
    journal_stream: Text | None = setting("JOURNAL_STREAM", None, "set by systemd: which stream is the journal")

    @property
    def development(self) -> bool:
        """True only for NODE_ENV=development."""
        return self.environment == "development"


class SystemdSettings(Group):
    """What systemd tells a service about itself."""

    notify_socket: Text | None = setting("NOTIFY_SOCKET", None, "set by systemd for Type=notify")
    watchdog_usec: Annotated[int | None, whole("microseconds", most=10**15)] = setting("WATCHDOG_USEC", None,
        "set by systemd from WatchdogSec: a sign of life is due within it")
    listen_pid: Annotated[int | None, whole()] = setting("LISTEN_PID", None,
        "set by systemd with a .socket: whom it listened for")
    listen_fds: Annotated[int | None, whole("sockets", least=0, most=64)] = setting("LISTEN_FDS", None,
        "how many; from number 3 on")
    watchdog_pid: Annotated[int | None, whole()] = setting("WATCHDOG_PID", None,
        "set by systemd: whose signs of life it wants")


class RedisSettings(Group):
    """How we talk to Redis. All client limits are set by us: redis-py's defaults double entries and break BLOCK."""

    url: RedisUrl = setting("REDIS_URL", SecretStr("redis://127.0.0.1:6379/0"),
        "queues, events and permits; one server, Sentinel or a cluster (docs/guides/redis-cluster.md)")
    connect_timeout_s: Time = setting("QSTREAMD_REDIS_CONNECT_TIMEOUT_S", 2.0,
        "a healthy connect takes milliseconds; a dead host must fail fast")
    command_timeout_s: Time = setting("QSTREAMD_REDIS_COMMAND_TIMEOUT_S", 3.0,
        "the slowest script takes milliseconds; fsync may add 2 s")
    block_s: Annotated[float, seconds(least=0.05, most=300)] = setting("QSTREAMD_REDIS_BLOCK_S", 30.0,
        "one idle read a queue each 30 s keeps the idle bill near nothing")
    pool_size: Annotated[int, whole("connections", most=10_000)] = setting("QSTREAMD_REDIS_POOL_SIZE", 64,
        "of one process beside its blocked readers; a caller waits for one")
    pool_wait_s: Time = setting("QSTREAMD_REDIS_POOL_WAIT_S", 2.0,
        "a pool that is empty for so long is a fault, not a queue")
    profile: Literal["standard", "metered"] = setting("QSTREAMD_REDIS_PROFILE", "standard",
        "metered: other defaults, for a server that bills by the command (table below)")
    pending_max: Annotated[int, whole("entries", least=2, most=10**6)] = setting("QSTREAMD_REDIS_PENDING_MAX", 20_000,
        "of one consumer; some managed servers refuse more than 1,000. A queue has at most half as many slots")
    allow_eviction: bool = setting("QSTREAMD_ALLOW_EVICTION", False,
        "an evicting policy may drop the work stream; only for tests")


class PostgresSettings(Group):
    """How we talk to Postgres."""

    url: PostgresUrl | None = setting("DATABASE_URL", None, "tasks and results; the relay needs none")
    pool_min: Annotated[int, whole("connections", least=0, most=1000)] = setting("QSTREAMD_POSTGRES_POOL_MIN", 1,
        "one kept open answers the first claim at once")
    pool_max: Annotated[int, whole("connections", most=1000)] = setting("QSTREAMD_POSTGRES_POOL_MAX", 10,
        "statements take milliseconds; no connection is held during a model call")
    connect_timeout_s: Time = setting("QSTREAMD_POSTGRES_CONNECT_TIMEOUT_S", 5.0,
        "TLS and authentication of a distant server fit in")
    acquire_timeout_s: Time = setting("QSTREAMD_POSTGRES_ACQUIRE_TIMEOUT_S", 3.0,
        "asyncpg's own timeout= does not bound the wait for a connection")
    command_timeout_s: Time = setting("QSTREAMD_POSTGRES_COMMAND_TIMEOUT_S", 5.0,
        "a slower statement is waiting for a lock or for a server that is gone")
    statement_cache_size: Annotated[int, whole("statements", least=0, most=10_000)] = setting(
        "QSTREAMD_POSTGRES_STATEMENT_CACHE_SIZE", 100, "0 behind pgbouncer in transaction mode")
    hold_result_s: Time = setting("QSTREAMD_POSTGRES_HOLD_RESULT_S", 900.0,
        "a finished answer is held so long while Postgres is away: it cost money")


class QstashSettings(Group):
    """Who may call the relay, and how we publish."""

    url: WebUrl = setting("QSTASH_URL", "https://qstash.upstash.io", "where the gateway publishes")
    token: Key | None = setting("QSTASH_TOKEN", None, "for publishing; the relay needs none")
    current_keys: Several[Key] = setting("QSTASH_CURRENT_SIGNING_KEY", (),
        "calls are checked against these first")
    next_keys: Several[Key] = setting("QSTASH_NEXT_SIGNING_KEY", (),
        "then against these, so that keys may roll")
    skip_verify: bool = setting("QSTASH_SKIP_VERIFY", False, "takes unsigned calls; needs NODE_ENV=development")
    leeway_s: Annotated[float, seconds(least=0, most=300)] = setting("QSTREAMD_SIGNATURE_LEEWAY_S", 30.0,
        "clock skew between hosts")


class RelaySettings(Group):
    """The one light call."""

    host: Host = setting("RELAY_HOST", "127.0.0.1", "TLS ends at the proxy on the same host")
    port: Port = setting("RELAY_PORT", 8080, "0 takes a free one")
    base_url: WebUrl | None = setting("WORKER_BASE_URL", None,
        "public URL that QStash calls; signatures are checked against it, never against the Host header")
    body_timeout_s: Time = setting("QSTREAMD_RELAY_BODY_TIMEOUT_S", 10.0, "a slow body must not hold a connection")
    redis_deadline_s: Annotated[float, seconds(most=2.9)] = setting("QSTREAMD_RELAY_REDIS_DEADLINE_S", 2.5,
        "a 503 is promised within 3 s")
    keepalive_s: Time = setting("QSTREAMD_RELAY_KEEPALIVE_S", 75.0, "longer than a proxy's 60 s idle")
    retry_after_s: Annotated[int, whole("seconds", most=86_400)] = setting("QSTREAMD_RELAY_RETRY_AFTER_S", 5,
        "sent with 503")


class GatewaySettings(Group):
    """The optional doors for browsers and mini-programs."""

    host: Host = setting("GATEWAY_HOST", "127.0.0.1", "TLS ends at the proxy on the same host")
    port: Port = setting("GATEWAY_PORT", 8081, "0 takes a free one")
    task_token_secret: Annotated[SecretStr | None, secret(r"[^\x00]+", "any text")] = setting("TASK_TOKEN_SECRET", None,
        "signs the short tokens of browsers; 32 characters or more")
    api_keys: Several[ApiKey] = setting("API_KEYS", (),
        "servers that may submit; the hashed form keeps the key itself off this host")
    admin_token: Key | None = setting("ADMIN_TOKEN", None, "for the operator's page")
    allowed_origins: Several[Origin] = setting("ALLOWED_ORIGINS", (),
        "pages that may read the gateway's answers (CORS)")
    direct_submit: bool = setting("QSTREAMD_DIRECT_SUBMIT", False,
        "write straight to the stream instead of through QStash, in production too")
    public_url: WebUrl | None = setting("QSTREAMD_GATEWAY_URL", None,
        "public URL of the gateway, for `sseUrl` in answers; unset: a path")
    token_ttl_s: Annotated[float, seconds(least=1)] = setting("QSTREAMD_TASK_TOKEN_TTL_S", 7200.0,
        "a token made for a submitted task outlives its waiting and running")
    submits_per_minute: Annotated[int, whole("calls", most=1_000_000)] = setting("QSTREAMD_SUBMITS_PER_MINUTE", 600,
        "of one API key in one process; a loop gone wild gets 429 before it costs money")
    viewers_max: Annotated[int, whole("viewers", most=1_000_000)] = setting("QSTREAMD_VIEWERS_MAX", 10_000,
        "followers of one process at once; each holds a socket")
    viewers_per_address: Annotated[int, whole("viewers", most=1_000_000)] = setting("QSTREAMD_VIEWERS_PER_ADDRESS", 200,
        "of one client address: an office fits in, a flood does not")
    viewer_queue: Annotated[int, whole("events", most=100_000)] = setting("QSTREAMD_VIEWER_QUEUE", 256,
        "waiting for one viewer; a slower one is cut off and comes back with its cursor")
    viewer_age_s: Annotated[float, seconds(least=1)] = setting("QSTREAMD_VIEWER_AGE_S", 3600.0,
        "a connection is ended after so long and comes back, so that its token is looked at again")
    comment_s: Annotated[float, seconds(least=0.05, most=300)] = setting("QSTREAMD_COMMENT_S", 15.0,
        "proxies close silent connections after 30 to 60 s; a dead one is noticed so late")


class OpsSettings(Group):
    """Health and metrics of the daemon."""

    host: Host = setting("OPS_HOST", "127.0.0.1", "metrics are for the same host unless you say otherwise")
    port: Port = setting("OPS_PORT", 9464, "the usual port of exporters; 0 takes a free one")
    depths_s: Annotated[float, seconds(least=0.05, most=3600)] = setting("QSTREAMD_DEPTHS_S", 15.0,
        "scrapes within it share one look at Redis: seven commands for six queues; none without scrapes")
    deaf_s: Annotated[float, seconds(least=0.05, most=3600)] = setting("QSTREAMD_DEAF_S", 60.0,
        "work that waited so long beside a free slot was not heard: not ready; after twice as long not live")


class BlobSettings(Group):
    """Where image bytes lie between the relay and the model."""

    store: Literal["disk", "redis", "s3"] = setting("BLOB_STORE", "redis",
        "redis needs nothing more; disk needs relay and daemon on one host; s3 suits many hosts")
    dir: Text = setting("BLOB_DIR", "/var/lib/qstreamd/blobs", "made if absent; of one host, never a share")
    upload_bytes_max: Annotated[int, whole("bytes", least=1024)] = setting("QSTREAMD_UPLOAD_BYTES_MAX", 20 * 1024**2,
        "of one image, uploaded or in the bucket; models scale down far below what fits in")
    upload_timeout_s: Annotated[float, seconds(most=3600)] = setting("QSTREAMD_UPLOAD_TIMEOUT_S", 120.0,
        "a phone on a slow network sends 20 MiB in it")
    uploads_per_minute: Annotated[int, whole("uploads", most=1_000_000)] = setting("QSTREAMD_UPLOADS_PER_MINUTE", 30,
        "of one user in one process; nobody photographs faster")
    upload_ttl_s: Annotated[float, seconds(least=1, most=90 * 86400)] = setting("QSTREAMD_UPLOAD_TTL_S", 86_400.0,
        "an upload whose task never came, or never ended, goes after this")
    disk_bytes_max: Annotated[int, whole("bytes", most=2**50)] = setting("QSTREAMD_BLOB_DISK_BYTES_MAX", 4 * 1024**3,
        "share of the disk; then uploads get 507 until images go with their tasks")
    disk_free_bytes_min: Annotated[int, whole("bytes", least=0, most=2**50)] = setting(
        "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN", 1024**3, "stays free whatever the share: Redis and Postgres write too")
    sweep_s: Annotated[float, seconds(least=0.05, most=86_400)] = setting("QSTREAMD_BLOB_SWEEP_S", 600.0,
        "how often the daemons of a host look for images that nobody will ask for")
    s3_endpoint_url: WebUrl | None = setting("S3_ENDPOINT_URL", None, "S3, R2 or another that speaks it")
    s3_bucket: Annotated[str | None, text(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name")] = setting(
        "S3_BUCKET", None, "holds uploaded images")
    s3_access_key_id: Key | None = setting("S3_ACCESS_KEY_ID", None, "may read, put and delete there")
    s3_secret_access_key: Key | None = setting("S3_SECRET_ACCESS_KEY", None, "signs reads and uploads")
    s3_region: Annotated[str, text(r"[a-z0-9-]{1,32}", "a region's name")] = setting("QSTREAMD_S3_REGION", "auto",
        "auto is right for R2; AWS and others want theirs")
    s3_presign_ttl_s: Annotated[int, whole("seconds", least=10, most=300)] = setting("QSTREAMD_S3_PRESIGN_TTL_S", 300,
        "a signed PUT is a key to the bucket for so long")
    s3_timeout_s: Annotated[float, seconds(most=300)] = setting("QSTREAMD_S3_TIMEOUT_S", 15.0,
        "of one read; a bucket that is slower is away, and the task comes back")

    @property
    def has_bucket(self) -> bool:
        """Whether scheme 3 is configured, whatever `store` says."""
        return all((self.s3_endpoint_url, self.s3_bucket, self.s3_access_key_id, self.s3_secret_access_key))


_OWN_SIZE = "of this queue; unset: QUEUE_MAX_SIZE"
_OWN_SLOTS = "at once in one process; unset: as the queue is declared"


class QueueSettings(Group):
    """Size, parallelism; `daemon/services/limits_in_force.py` says which wins: these, services file, `…:control`."""

    max_size: Places = setting("QUEUE_MAX_SIZE", 200, "reserved or waiting in one queue; then callers get 429")
    max_paid_stream: Places | None = setting("QUEUE_MAX_PAID_STREAM", None, _OWN_SIZE)
    max_free_stream: Places | None = setting("QUEUE_MAX_FREE_STREAM", None, _OWN_SIZE)
    max_paid_batch: Places | None = setting("QUEUE_MAX_PAID_BATCH", None, _OWN_SIZE)
    max_free_batch: Places | None = setting("QUEUE_MAX_FREE_BATCH", None, _OWN_SIZE)
    max_paid_vision: Places | None = setting("QUEUE_MAX_PAID_VISION", None, _OWN_SIZE)
    max_free_vision: Places | None = setting("QUEUE_MAX_FREE_VISION", None, _OWN_SIZE)
    parallelism_paid_stream: Slots | None = setting("QUEUE_PARALLELISM_PAID_STREAM", None, _OWN_SLOTS)
    parallelism_free_stream: Slots | None = setting("QUEUE_PARALLELISM_FREE_STREAM", None, _OWN_SLOTS)
    parallelism_paid_batch: Slots | None = setting("QUEUE_PARALLELISM_PAID_BATCH", None, _OWN_SLOTS)
    parallelism_free_batch: Slots | None = setting("QUEUE_PARALLELISM_FREE_BATCH", None, _OWN_SLOTS)
    parallelism_paid_vision: Slots | None = setting("QUEUE_PARALLELISM_PAID_VISION", None, _OWN_SLOTS)
    parallelism_free_vision: Slots | None = setting("QUEUE_PARALLELISM_FREE_VISION", None, _OWN_SLOTS)
    promise_ttl_s: Time = setting("QSTREAMD_PROMISE_TTL_S", 900.0,
        "a reservation whose message never arrives expires after this")
    reconcile_s: Time = setting("QSTREAMD_RECONCILE_S", 30.0,
        "how often the counter of a busy queue is held against the tasks behind it; of an idle one a fifth as often")
    seen_ttl_s: Annotated[float, seconds(most=90 * 86400)] = setting("QSTREAMD_SEEN_TTL_S", 7 * 86400.0,
        "so long the same id is a duplicate; QStash retries for days")
    blob_ttl_s: Annotated[float, seconds(most=90 * 86400)] = setting("QSTREAMD_BLOB_TTL_S", 7 * 86400.0,
        "as long as an id")
    entry_bytes_max: Annotated[int, whole("bytes", least=1024**2)] = setting("QSTREAMD_ENTRY_BYTES_MAX", 2 * 1024**2,
        "twice the relay's body cap; anything larger was not written by us")
    dead_count_max: Annotated[int, whole("dead letters")] = setting("QSTREAMD_DEAD_COUNT_MAX", 10_000,
        "a queue keeps; they hold no content, about 0.5 KB each")
    dead_age_s: Annotated[float, seconds(most=3650 * 86400)] = setting("QSTREAMD_DEAD_AGE_S", 30 * 86400.0,
        "older dead letters are dropped")

    def of(self, kind: Literal["max", "parallelism"], queue: str) -> int | None:
        """The variable for a default queue such as `q_paid_stream`; None if unset or for a queue without one."""
        attribute = f"{kind}_{queue.removeprefix('q_')}"
        return getattr(self, attribute) if queue.startswith("q_") and attribute in _OF_ONE_QUEUE else None


_OF_ONE_QUEUE = frozenset(f"{kind}_{tier}_{mode}"
    for kind in ("max", "parallelism") for tier in ("paid", "free") for mode in ("stream", "batch", "vision"))


class GuardSettings(Group):
    """Attempts at once over all processes; a model's `concurrency` in the services file wins."""

    model_paid: Slots = setting("MODEL_CONCURRENCY_PAID", 50, "paid tasks of one model; below the vendor's limit")
    model_free: Slots = setting("MODEL_CONCURRENCY_FREE", 10, "free tasks of one model; the rest is for payers")
    user_paid: Slots = setting("USER_CONCURRENCY_PAID", 3, "of one paying user; more wait their turn")
    user_free: Slots = setting("USER_CONCURRENCY_FREE", 1, "of one free user; more wait their turn")
    wait_max_s: Time = setting("QSTREAMD_GUARD_WAIT_MAX_S", 1800.0,
        "a task that waited so long for a permit ends with WORKER_OVERLOADED")
    handover_s: Annotated[float, seconds(least=0.05, most=30)] = setting("QSTREAMD_GUARD_HANDOVER_S", 1.0,
        "a free permit is kept so long for the waiter that was notified; it comes within 0.1 s, or not at all")
    sweep_s: Annotated[float, seconds(least=0.05, most=60)] = setting("QSTREAMD_GUARD_SWEEP_S", 2.0,
        "while somebody waits: a holder that died, or a notification that was lost, is noticed within this")
    free_patience_s: Time = setting("QSTREAMD_FREE_PATIENCE_S", 30.0,
        "a free task that waited so long for a model's rate counts as a paid one, so that it never starves")
    quota_closed_s: Annotated[float, seconds(most=86_400)] = setting("QSTREAMD_QUOTA_CLOSED_S", 900.0,
        "a model whose quota is used up is left alone for so long; asking sooner changes nothing")
    breaker_failures: Annotated[int, whole("failures", most=1000)] = setting("QSTREAMD_BREAKER_FAILURES", 5,
        "of a model in a row, over all processes: then it is left alone")
    breaker_window_s: Annotated[float, seconds(most=3600)] = setting("QSTREAMD_BREAKER_WINDOW_S", 60.0,
        "they must fall within it; older ones are another story")
    breaker_open_s: Annotated[float, seconds(least=0.05, most=3600)] = setting("QSTREAMD_BREAKER_OPEN_S", 30.0,
        "then one attempt finds out; it doubles with each that fails")
    breaker_open_max_s: Annotated[float, seconds(least=0.05, most=86_400)] = setting(
        "QSTREAMD_BREAKER_OPEN_MAX_S", 300.0, "a model that recovers is back within this")


class LeaseSettings(Group):
    """Who owns a running attempt, and how soon another may take it."""

    lease_s: Annotated[float, seconds(least=0.1, most=3600)] = setting("QSTREAMD_LEASE_S", 20.0,
        "another host takes over within 25 s; a failover of Redis of 10 s stops no call")
    beat_s: Annotated[float, seconds(least=0.02, most=1200)] = setting("QSTREAMD_BEAT_S", 5.0,
        "a quarter: two beats may fail")
    self_fence_s: Annotated[float, seconds(least=0.05, most=3600)] = setting("QSTREAMD_SELF_FENCE_S", 15.0,
        "without a good beat for so long the attempt stops itself")
    liveness_s: Annotated[float, seconds(least=0.02, most=600)] = setting("QSTREAMD_LIVENESS_S", 5.0,
        "the shared liveness read; thirteen a minute are half of the idle bill")
    liveness_ttl_s: Annotated[float, seconds(least=0.05, most=3600)] = setting("QSTREAMD_LIVENESS_TTL_S", 11.0,
        "two reads and a little: another host notices a death within 16 s, before its leases have lapsed")
    sweep_s: Time = setting("QSTREAMD_SWEEP_S", 300.0,
        "an unasked sweep of every queue, in case the liveness key was lost")
    compare_s: Time = setting("QSTREAMD_COMPARE_S", 60.0,
        "how often Postgres is asked for tasks that Redis may have forgotten")
    crashes_max: Annotated[int, whole("crashes", most=100)] = setting("QSTREAMD_CRASHES_MAX", 3,
        "after one crash less a task runs in quarantine, where its next crash is a dead letter")
    quarantine_slots: Annotated[int, whole("processes", least=0, most=20)] = setting("QSTREAMD_QUARANTINE_SLOTS", 2,
        "tasks in quarantine at once in each daemon, each in a process of about 80 MB; 0: none, and the last crash is a"
        " dead letter wherever it happens")


class RetrySettings(Group):
    """Backoff: full jitter between zero and min(cap, base * 2^failures); Retry-After is a minimum."""

    base_s: Time = setting("QSTREAMD_RETRY_BASE_S", 2.0, "a blip of the vendor is over by then")
    cap_s: Time = setting("QSTREAMD_RETRY_CAP_S", 60.0, "somebody may be watching")
    guard_s: Time = setting("QSTREAMD_GUARD_RETRY_S", 30.0,
        "a delayed task is woken when it may run; if all wake-ups were lost it asks by itself after this")
    defer_s: Time = setting("QSTREAMD_DEFER_S", 5.0, "after a 429 that names no time")


class EventSettings(Group):
    """The per-task streams."""

    ttl_after_end_s: Time = setting("QSTREAMD_EVENTS_TTL_AFTER_END_S", 3600.0,
        "a viewer may come back so late and still read the end")
    ttl_s: Time = setting("QSTREAMD_EVENTS_TTL_S", 86400.0, "after the last event, whatever happens")
    flush_ms: Annotated[int, whole("milliseconds", least=50, most=5000)] = setting("QSTREAMD_EVENTS_FLUSH_MS", 50,
        "20 batches a second is what eyes follow, and the most that is promised")
    flush_bytes: Annotated[int, whole("bytes", most=65_536)] = setting("QSTREAMD_EVENTS_FLUSH_BYTES", 1024,
        "a fast model is cut into readable pieces")


class ShutdownSettings(Group):
    """Quiet, drain, cut."""

    drain_s: Time = setting("QSTREAMD_DRAIN_S", 180.0, "covers the P95 of a task; the rest is requeued")
    stop_s: Time = setting("QSTREAMD_STOP_S", 210.0, "systemd's TimeoutStopSec; then SIGKILL")


class ProviderSettings(Group):
    """Keys and addresses of the models."""

    deepseek_api_key: Key | None = setting("DEEPSEEK_API_KEY", None, "needed by services that use DeepSeek")
    openai_api_key: Key | None = setting("OPENAI_API_KEY", None, "needed by services that use OpenAI")
    gemini_api_key: Key | None = setting("GEMINI_API_KEY", None, "needed by services that use Gemini")
    deepseek_base_url: WebUrl = setting("DEEPSEEK_BASE_URL", "https://api.deepseek.com", "or a proxy's")
    openai_base_url: WebUrl = setting("OPENAI_BASE_URL", "https://api.openai.com/v1", "or any API of the same shape")
    gemini_base_url: WebUrl = setting("GEMINI_BASE_URL", "https://generativelanguage.googleapis.com", "or a proxy's")
    connect_timeout_s: Time = setting("QSTREAMD_PROVIDER_CONNECT_TIMEOUT_S", 5.0,
        "a vendor that can't be reached in 5 s is down; the other clocks belong to the service")
    https_proxy: Annotated[SecretStr | None, server_url("http")] = setting("QSTREAMD_HTTPS_PROXY", None,
        "calls of providers over https go through it (CONNECT); a model's `proxy` in the services file wins")
    connections_max: Annotated[int, whole("connections", most=10**5)] = setting(
        "QSTREAMD_PROVIDER_CONNECTIONS_MAX", 2000, "vendor clients stop at 100 and leak slots when a pool is contended")


class Settings(BaseSettings):
    """All groups. `config.load` builds it from its sources; `Settings()` is all defaults, and reads no environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    runtime: RuntimeSettings = RuntimeSettings()
    systemd: SystemdSettings = SystemdSettings()
    redis: RedisSettings = RedisSettings()
    postgres: PostgresSettings = PostgresSettings()
    qstash: QstashSettings = QstashSettings()
    relay: RelaySettings = RelaySettings()
    gateway: GatewaySettings = GatewaySettings()
    ops: OpsSettings = OpsSettings()
    blobs: BlobSettings = BlobSettings()
    queues: QueueSettings = QueueSettings()
    guards: GuardSettings = GuardSettings()
    lease: LeaseSettings = LeaseSettings()
    retry: RetrySettings = RetrySettings()
    events: EventSettings = EventSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    providers: ProviderSettings = ProviderSettings()
    sources: Mapping[str, Source] = {}
    warnings: tuple[str, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what code hands in."""
        return (init_settings,)
