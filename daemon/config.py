"""Every setting, limit and time: default beside unit beside reason. The only reader of the environment.

Each module is handed the one group it needs. Names of environment variables are public (protocol 8); everything that is
not named there is `QSTREAMD_…` with its unit at the end. `load()` collects all mistakes before it raises.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Millis = Annotated[int, Field(gt=0, le=86_400_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Group(BaseSettings):
    """One frozen group; fields read exactly the environment variable that their alias names."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, case_sensitive=True, env_ignore_empty=True
    )


class RuntimeSettings(_Group):
    """What this process is."""

    environment: str = Field("production", alias="NODE_ENV", pattern=r"^[a-z][a-z0-9_-]{0,31}$",
                             description="absent means production, so that a forgotten variable is never unsafe")
    services_file: str | None = Field(None, alias="SERVICES_FILE", description="TOML; absent: the shipped default")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", alias="QSTREAMD_LOG_LEVEL")
    log_format: Literal["auto", "json", "pretty"] = Field(
        "auto", alias="QSTREAMD_LOG_FORMAT", description="auto: pretty on a terminal, else JSON")
    no_color: str | None = Field(None, alias="NO_COLOR", description="set to anything: no colours, as everywhere")
    journal_stream: str | None = Field(None, alias="JOURNAL_STREAM", description="set by systemd: stderr is the journal")

    @property
    def development(self) -> bool:
        """True only for NODE_ENV=development."""
        return self.environment == "development"


class RedisSettings(_Group):
    """How we talk to Redis. All client limits are set by us: redis-py's defaults double entries and break BLOCK."""

    url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), alias="REDIS_URL")
    connect_timeout_s: Seconds = Field(2.0, alias="QSTREAMD_REDIS_CONNECT_TIMEOUT_S",
                                       description="a healthy connect takes milliseconds; a dead host must fail fast")
    command_timeout_s: Seconds = Field(3.0, alias="QSTREAMD_REDIS_COMMAND_TIMEOUT_S",
                                       description="the slowest script takes milliseconds; fsync may add 2 s")
    block_s: Seconds = Field(30.0, alias="QSTREAMD_REDIS_BLOCK_S",
                             description="one idle read a queue each 30 s keeps the idle bill near nothing")
    pool_size: Count = Field(64, alias="QSTREAMD_REDIS_POOL_SIZE",
                             description="connections of one process beside its blocked readers; a caller waits for one")
    pool_wait_s: Seconds = Field(2.0, alias="QSTREAMD_REDIS_POOL_WAIT_S")
    allow_eviction: bool = Field(False, alias="QSTREAMD_ALLOW_EVICTION",
                                 description="an evicting policy may drop the work stream; only for tests")


class PostgresSettings(_Group):
    """How we talk to Postgres."""

    url: SecretStr | None = Field(None, alias="DATABASE_URL")
    pool_min: Annotated[int, Field(ge=0, le=1000)] = Field(1, alias="QSTREAMD_POSTGRES_POOL_MIN")
    pool_max: Count = Field(10, alias="QSTREAMD_POSTGRES_POOL_MAX",
                            description="statements take milliseconds; no connection is held during a model call")
    connect_timeout_s: Seconds = Field(5.0, alias="QSTREAMD_POSTGRES_CONNECT_TIMEOUT_S")
    acquire_timeout_s: Seconds = Field(3.0, alias="QSTREAMD_POSTGRES_ACQUIRE_TIMEOUT_S",
                                       description="asyncpg's own timeout= does not bound the wait for a connection")
    command_timeout_s: Seconds = Field(5.0, alias="QSTREAMD_POSTGRES_COMMAND_TIMEOUT_S")
    statement_cache_size: Annotated[int, Field(ge=0, le=10_000)] = Field(
        100, alias="QSTREAMD_POSTGRES_STATEMENT_CACHE_SIZE", description="0 behind pgbouncer in transaction mode")
    hold_result_s: Seconds = Field(900.0, alias="QSTREAMD_POSTGRES_HOLD_RESULT_S",
                                   description="a finished answer is held so long while Postgres is away: it cost money")


class QstashSettings(_Group):
    """Who may call the relay, and how we publish."""

    url: str = Field("https://qstash.upstash.io", alias="QSTASH_URL")
    token: SecretStr | None = Field(None, alias="QSTASH_TOKEN")
    current_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), alias="QSTASH_CURRENT_SIGNING_KEY")
    next_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), alias="QSTASH_NEXT_SIGNING_KEY")
    skip_verify: bool = Field(False, alias="QSTASH_SKIP_VERIFY", description="needs NODE_ENV=development")
    leeway_s: Seconds = Field(30.0, alias="QSTREAMD_SIGNATURE_LEEWAY_S", description="clock skew between hosts")


class RelaySettings(_Group):
    """The one light call."""

    host: str = Field("127.0.0.1", alias="RELAY_HOST", description="TLS ends at the proxy on the same host")
    port: Port = Field(8080, alias="RELAY_PORT")
    base_url: str | None = Field(None, alias="WORKER_BASE_URL", description="public URL that QStash calls")
    body_timeout_s: Seconds = Field(10.0, alias="QSTREAMD_RELAY_BODY_TIMEOUT_S",
                                    description="a slow body must not hold a connection")
    redis_deadline_s: Seconds = Field(2.5, alias="QSTREAMD_RELAY_REDIS_DEADLINE_S",
                                      description="protocol 6: 503 is answered within 3 s")
    keepalive_s: Seconds = Field(75.0, alias="QSTREAMD_RELAY_KEEPALIVE_S", description="longer than a proxy's 60 s idle")
    retry_after_s: Count = Field(5, alias="QSTREAMD_RELAY_RETRY_AFTER_S", description="sent with 503")


class GatewaySettings(_Group):
    """The optional doors for browsers and mini-programs."""

    host: str = Field("127.0.0.1", alias="GATEWAY_HOST")
    port: Port = Field(8081, alias="GATEWAY_PORT")
    task_token_secret: SecretStr | None = Field(None, alias="TASK_TOKEN_SECRET")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), alias="API_KEYS")
    admin_token: SecretStr | None = Field(None, alias="ADMIN_TOKEN")
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field((), alias="ALLOWED_ORIGINS")
    direct_submit: bool = Field(False, alias="QSTREAMD_DIRECT_SUBMIT")


class OpsSettings(_Group):
    """Health and metrics of the daemon."""

    host: str = Field("127.0.0.1", alias="OPS_HOST")
    port: Port = Field(9464, alias="OPS_PORT")


class BlobSettings(_Group):
    """Where image bytes lie between the relay and the model."""

    store: Literal["disk", "redis", "s3"] = Field("redis", alias="BLOB_STORE")
    dir: str = Field("/var/lib/qstreamd/blobs", alias="BLOB_DIR")
    s3_endpoint_url: str | None = Field(None, alias="S3_ENDPOINT_URL")
    s3_bucket: str | None = Field(None, alias="S3_BUCKET")
    s3_access_key_id: SecretStr | None = Field(None, alias="S3_ACCESS_KEY_ID")
    s3_secret_access_key: SecretStr | None = Field(None, alias="S3_SECRET_ACCESS_KEY")


class QueueSettings(_Group):
    """Sizes and parallelism; `…:control` in Redis and the services file's `[queues.*]` win (see `app`)."""

    max_size: Count = Field(200, alias="QUEUE_MAX_SIZE")
    max_paid_stream: Count | None = Field(None, alias="QUEUE_MAX_PAID_STREAM")
    max_free_stream: Count | None = Field(None, alias="QUEUE_MAX_FREE_STREAM")
    max_paid_batch: Count | None = Field(None, alias="QUEUE_MAX_PAID_BATCH")
    max_free_batch: Count | None = Field(None, alias="QUEUE_MAX_FREE_BATCH")
    max_paid_vision: Count | None = Field(None, alias="QUEUE_MAX_PAID_VISION")
    max_free_vision: Count | None = Field(None, alias="QUEUE_MAX_FREE_VISION")
    parallelism_paid_stream: Count | None = Field(None, alias="QUEUE_PARALLELISM_PAID_STREAM")
    parallelism_free_stream: Count | None = Field(None, alias="QUEUE_PARALLELISM_FREE_STREAM")
    parallelism_paid_batch: Count | None = Field(None, alias="QUEUE_PARALLELISM_PAID_BATCH")
    parallelism_free_batch: Count | None = Field(None, alias="QUEUE_PARALLELISM_FREE_BATCH")
    parallelism_paid_vision: Count | None = Field(None, alias="QUEUE_PARALLELISM_PAID_VISION")
    parallelism_free_vision: Count | None = Field(None, alias="QUEUE_PARALLELISM_FREE_VISION")
    promise_ttl_s: Seconds = Field(900.0, alias="QSTREAMD_PROMISE_TTL_S",
                                   description="a place whose message never arrives is given back after this")
    seen_ttl_s: Seconds = Field(7 * 86400.0, alias="QSTREAMD_SEEN_TTL_S", description="protocol 4: 7 days")
    blob_ttl_s: Seconds = Field(7 * 86400.0, alias="QSTREAMD_BLOB_TTL_S", description="as long as the id is known")
    entry_bytes_max: Count = Field(2 * 1024 * 1024, alias="QSTREAMD_ENTRY_BYTES_MAX",
                                   description="twice the relay's body cap; anything larger was not written by us")
    dead_count_max: Count = Field(10_000, alias="QSTREAMD_DEAD_COUNT_MAX")
    dead_age_s: Annotated[float, Field(gt=0)] = Field(30 * 86400.0, alias="QSTREAMD_DEAD_AGE_S")

    def of(self, kind: Literal["max", "parallelism"], queue: str) -> int | None:
        """The variable for a default queue such as `q_paid_stream`; None if unset or for another queue."""
        value = getattr(self, f"{kind}_{queue.removeprefix('q_')}", None) if queue.startswith("q_") else None
        return value if isinstance(value, int) and queue != f"q_{'size'}" else None


class GuardSettings(_Group):
    """Attempts at once over all processes; a model's `concurrency` in the services file wins."""

    model_paid: Count = Field(50, alias="MODEL_CONCURRENCY_PAID")
    model_free: Count = Field(10, alias="MODEL_CONCURRENCY_FREE")
    user_paid: Count = Field(3, alias="USER_CONCURRENCY_PAID")
    user_free: Count = Field(1, alias="USER_CONCURRENCY_FREE")
    wait_max_s: Seconds = Field(1800.0, alias="QSTREAMD_GUARD_WAIT_MAX_S",
                                description="a task that waited so long for a place ends with WORKER_OVERLOADED")


class LeaseSettings(_Group):
    """Who owns a running attempt, and how soon another may take it."""

    lease_s: Seconds = Field(20.0, alias="QSTREAMD_LEASE_S", description="take-over after SIGKILL stays under 30 s")
    beat_s: Seconds = Field(5.0, alias="QSTREAMD_BEAT_S", description="a quarter: two beats may fail")
    self_fence_s: Seconds = Field(15.0, alias="QSTREAMD_SELF_FENCE_S",
                                  description="without a good beat for so long the attempt stops itself")
    liveness_s: Seconds = Field(6.0, alias="QSTREAMD_LIVENESS_S",
                                description="the shared liveness read; ten a minute are most of the idle bill")
    liveness_ttl_s: Seconds = Field(18.0, alias="QSTREAMD_LIVENESS_TTL_S", description="three reads")
    sweep_s: Seconds = Field(300.0, alias="QSTREAMD_SWEEP_S",
                             description="an unasked sweep of every queue, in case the liveness key was lost")
    crashes_max: Count = Field(3, alias="QSTREAMD_CRASHES_MAX", description="the third crash of a task is a dead letter")


class RetrySettings(_Group):
    """Backoff: full jitter between zero and min(cap, base * 2^failures); Retry-After is a minimum."""

    base_s: Seconds = Field(2.0, alias="QSTREAMD_RETRY_BASE_S")
    cap_s: Seconds = Field(60.0, alias="QSTREAMD_RETRY_CAP_S")
    guard_s: Seconds = Field(2.0, alias="QSTREAMD_GUARD_RETRY_S", description="a parked task asks again, jittered")
    defer_s: Seconds = Field(5.0, alias="QSTREAMD_DEFER_S", description="after a 429 that names no time")
    promote_batch: Count = Field(100, alias="QSTREAMD_PROMOTE_BATCH", description="due tasks moved by one script")


class EventSettings(_Group):
    """The per-task streams."""

    ttl_after_end_s: Seconds = Field(3600.0, alias="QSTREAMD_EVENTS_TTL_AFTER_END_S")
    ttl_s: Seconds = Field(86400.0, alias="QSTREAMD_EVENTS_TTL_S")
    flush_ms: Millis = Field(50, alias="QSTREAMD_EVENTS_FLUSH_MS", description="20 batches a second is what eyes follow")
    flush_bytes: Count = Field(1024, alias="QSTREAMD_EVENTS_FLUSH_BYTES")


class ShutdownSettings(_Group):
    """Quiet, drain, cut."""

    drain_s: Seconds = Field(180.0, alias="QSTREAMD_DRAIN_S", description="covers the P95 of a task")
    stop_s: Seconds = Field(210.0, alias="QSTREAMD_STOP_S", description="systemd's TimeoutStopSec; then SIGKILL")


class ProviderSettings(_Group):
    """Keys and addresses of the models."""

    deepseek_api_key: SecretStr | None = Field(None, alias="DEEPSEEK_API_KEY")
    openai_api_key: SecretStr | None = Field(None, alias="OPENAI_API_KEY")
    gemini_api_key: SecretStr | None = Field(None, alias="GEMINI_API_KEY")
    deepseek_base_url: str = Field("https://api.deepseek.com", alias="DEEPSEEK_BASE_URL")
    openai_base_url: str = Field("https://api.openai.com/v1", alias="OPENAI_BASE_URL")
    gemini_base_url: str = Field("https://generativelanguage.googleapis.com", alias="GEMINI_BASE_URL")
    connect_timeout_s: Seconds = Field(5.0, alias="QSTREAMD_PROVIDER_CONNECT_TIMEOUT_S")
    connections_max: Count = Field(2000, alias="QSTREAMD_PROVIDER_CONNECTIONS_MAX",
                                   description="vendor clients stop at 100 and leak slots when the pool is contended")


class Settings:
    """All groups; built by `load`."""

    def __init__(self) -> None:
        self.runtime = RuntimeSettings()
        self.redis = RedisSettings()
        self.postgres = PostgresSettings()
        self.qstash = QstashSettings()
        self.relay = RelaySettings()
        self.gateway = GatewaySettings()
        self.ops = OpsSettings()
        self.blobs = BlobSettings()
        self.queues = QueueSettings()
        self.guards = GuardSettings()
        self.lease = LeaseSettings()
        self.retry = RetrySettings()
        self.events = EventSettings()
        self.shutdown = ShutdownSettings()
        self.providers = ProviderSettings()


def load() -> Settings:
    """Settings from the environment; raises `ConfigError` with one line for each mistake."""
    return Settings()
