"""
Settings: read once, at the entry point of a process, from everywhere they can be given.

Strongest first: the environment (``PROMETHEUS__DATABASE__URL``), a file that the environment names
(``PROMETHEUS__DATABASE__URL_FILE``, for secrets), ``prometheus.toml`` (``[database] url``), and
the defaults below. The TOML file is the one ``PROMETHEUS_CONFIG`` names, otherwise the one in the
current folder if there is one. An empty variable counts as not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from prometheus.addresses import is_loopback
from prometheus.configuration import (
    DATA_FOLDER,
    DATABASE_NAME,
    FILE_SUFFIX,
    MARKETS,
    PREFIX,
    read_configuration,
    read_secret,
)
from prometheus.configuration import SettingsError as SettingsError  # callers have it from here
from prometheus.core.declarations import Declaration
from prometheus.core.durations import format_duration, parse_duration
from prometheus.core.markets import declare, get_market
from prometheus.core.sizes import Size, parse_size
from prometheus.errors import PrometheusError, nearest
from prometheus.masking import keep_secret, safe_url, tokens
from prometheus.orchestration.alerts import RouteError, read_route
from prometheus.sources.choice import EODHD, choose_sources
from prometheus.sources.eodhd.naming import (
    BASE_URL,
    DEFAULT_FACTORS,
    REQUESTS_PER_MINUTE,
    EodhdFeed,
)

LEAST_MEMORY = parse_size("256MB")

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "rediss+socket")
_CHANNEL_SECTIONS = ("channels", "routes")
"""Sections whose keys are names of channels, which variables write in capitals."""
_ISO_DURATION = re.compile(r"P(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?", re.IGNORECASE)
_UNDERSCORES = re.compile("_+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+")
_PREFIX_OF_PATHS = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
_PAGES = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(/[A-Za-z0-9._~-]+)*/?"
)
_TOKEN = re.compile(r"[A-Za-z0-9._-]*")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_DEFAULT = "default"
_LEAD = (
    "lease ({}) must be at least twice max_wait ({}), or the lead would be lost between two ticks"
)
_RENEWAL = (
    "lease ({}) must be at least three times renewal ({}), or one slow renewal would lose a worker"
)
_OUTAGE = (
    "the lease of workers ({}) must be at least four times the scheduler's max_wait ({}), or it "
    "could not tell its own pauses from an outage in which healthy workers could not renew"
)
_LONG_ENOUGH = (
    (("scheduler.lease", "scheduler.max_wait"), 2, _LEAD),
    (("workers.lease", "workers.renewal"), 3, _RENEWAL),
    (("workers.lease", "scheduler.max_wait"), 4, _OUTAGE),
)
"""Two durations, how many times the second one the first must be at least, and why."""


def _read_duration(value: object) -> object:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 1 and _ISO_DURATION.fullmatch(text):
            text = text[1:].upper().replace("T", "")
        value = parse_duration(text)
    if not isinstance(value, timedelta):
        raise ValueError(f"{value!r} has no unit; write 45s, 30m, 2h, 1h30m or 1d")
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _read_list(value: object) -> object:
    if isinstance(value, str):
        return [part for part in (part.strip() for part in value.split(",")) if part]
    return value


Duration = Annotated[timedelta, BeforeValidator(_read_duration)]
_DURATIONS: TypeAdapter[timedelta] = TypeAdapter(Duration)


def _read_size(value: object) -> Size:
    if not isinstance(value, str) and value != 0:
        raise ValueError(f"{value!r} has no unit; write 512MB, 2GB or 0")
    size = parse_size(str(value))
    if 0 < size < LEAST_MEMORY:
        raise ValueError(
            f"must be at least {LEAST_MEMORY}, because a worker's process needs a part of it for "
            f"itself; or 0 for no limit"
        )
    return size


Memory = Annotated[Size, PlainValidator(_read_size)]


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must name at least one")
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_read_list)]
Names = Annotated[Texts, AfterValidator(_not_empty)]


def _fault_of_redis_url(url: str) -> str | None:
    """Say why Redis' client could not use a URL, without a part of it that may be secret."""
    scheme, _, _ = url.partition("://")
    if scheme not in _REDIS_SCHEMES:
        return f"must begin with {', '.join(f'{each}://' for each in _REDIS_SCHEMES)}"
    shape = (
        "it must look like redis://:password@host:6379/0, special characters in the password "
        "written as %40 and the like"
    )
    is_socket = scheme.endswith("+socket")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"its port is not a number: {shape}"
    database = parts.path.strip("/")
    if not is_socket and database and not (database.isascii() and database.isdigit()):
        return f"it does not end with the number of a database: {shape}"
    known = {"virtual_host"} if is_socket else set()
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known and not name.startswith("ssl_"):
            # After an unquoted question mark, the rest of a password looks like an option.
            told = "such option" if "@" in parts.query else f"option {name!r}"
            return f"Redis' client has no {told}: {shape}"
    return None


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(_Section):
    """Where the rows are."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="URL of the database: postgresql://user:password@host/name, or "
        "sqlite:////absolute/path.db; by default prometheus.db in the data folder.",
    )


class BrokerSettings(_Section):
    """The Redis that carries messages to the workers."""

    url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of Redis: redis://:password@host:6379/0, rediss:// for TLS, or "
        "redis+socket:///path for a socket.",
    )
    visibility_timeout: Duration = Field(
        default=timedelta(hours=2),
        description="How long Redis waits for an acknowledgement before it hands a message out "
        "again; no retry may wait longer. The same for all workers, in whole seconds.",
    )

    @field_validator("url")
    @classmethod
    def _of_redis(cls, value: SecretStr) -> SecretStr:
        # A semicolon separates URLs for Celery, wherever it stands.
        for url in value.get_secret_value().split(";"):
            fault = _fault_of_redis_url(url)
            if fault is not None:
                raise ValueError(fault)
        return value

    @field_validator("visibility_timeout")
    @classmethod
    def _whole_seconds(cls, value: timedelta) -> timedelta:
        if value % timedelta(seconds=1):
            raise ValueError("must be whole seconds")
        return value


class DataSettings(_Section):
    """Files of this installation."""

    folder: Path = Field(
        default=DATA_FOLDER,
        description="Folder for the SQLite database, logs and what the embedded stack needs; "
        "relative to the current folder.",
    )


class MarketSettings(_Section):
    """The markets that this installation serves."""

    enabled: Names = Field(
        default=("US_EQ", "EU_EQ", "ASIA_EQ"),
        description="Markets or single exchanges (MICs); each has a queue of its own.",
    )

    @field_validator("enabled")
    @classmethod
    def _exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        problems = []
        for name in value:
            try:
                get_market(name)
            except PrometheusError as error:
                problems.append(str(error))
        if len(set(value)) != len(value):
            problems.append("a market is named twice")
        if problems:
            raise ValueError(" ".join(problems))
        return value


class PipelineSettings(_Section):
    """The pipelines that this installation runs."""

    modules: Names = Field(
        default=("prometheus.orchestration.daily:daily",),
        description="Pipelines: package.module:attribute, package.module (every pipeline in it), "
        "or the path of a Python file. Those that installed packages announce are added.",
    )


class SchedulerSettings(_Section):
    """The beat."""

    max_wait: Duration = Field(
        default=timedelta(seconds=3),
        description="Longest pause between two ticks; the lead is renewed at each.",
    )
    lease: Duration = Field(
        default=timedelta(seconds=10),
        description="How long a leader that says nothing keeps the lead.",
    )
    reconcile_every: Duration = Field(
        default=timedelta(seconds=30),
        description="How often due executions are compared with the messages in Redis.",
    )
    leader_election: bool = Field(
        default=True,
        description="Whether one of several beats leads and the others stand by. Without it all "
        "of them work, which does no harm and costs lost claims.",
    )
    create_runs: bool = Field(
        default=True,
        description="Whether runs are made as sessions come; without it only operators make them.",
    )
    heartbeat: Path | None = Field(
        default=None,
        description="A file, such as /tmp/beat in a container, that a beat touches at each tick, "
        "also while it stands by: `prometheus health beat` with the same setting then tells of "
        "that beat whether it stands still. Each beat needs one of its own.",
    )


class WorkerSettings(_Section):
    """The workers."""

    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Jobs that one worker runs at once, each in a process of its own; by default "
        "the number of processors.",
    )
    lease: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a worker that says nothing keeps its executions.",
    )
    renewal: Duration = Field(
        default=timedelta(seconds=5),
        description="How often a worker renews its lease.",
    )
    max_lost: int = Field(
        default=3,
        ge=0,
        description="How often a job is started again because its worker was lost; not counted "
        "among its retries.",
    )
    soft_stop: Duration | None = Field(
        default=None,
        description="How long a worker that is told to stop (SIGTERM) lets its jobs run on before "
        "it hands back those that have not ended; by default until they have. A second SIGTERM, or "
        "SIGQUIT, has it do so at once.",
    )
    memory_limit: Memory | None = Field(
        default=None,
        description="Memory that the process of a job may use (2GB): more is a MemoryError in the "
        "job, which fails its attempt. By default three quarters of the machine's, or of its "
        "container's; 0 for no limit.",
    )


class WebSettings(_Section):
    """The web API."""

    address: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Where it listens; any other than this machine's own only with users or tokens "
        "(prometheus user add).",
    )
    port: int = Field(default=8765, ge=1, le=65535, description="The port it listens on.")
    actions: bool = Field(
        default=False,
        description="Whether, without users, it does what every account of this machine may ask, "
        "such as cancel a run. Where there are users, their roles say what they may, and not this.",
    )
    hosts: Texts = Field(
        default=(),
        description="Names, beside those of this machine, by which it may be asked: "
        "scheduler.example. Only with users or tokens.",
    )
    https: bool = Field(
        default=True,
        description="Whether browsers reach these names by https, which a proxy sees to: their "
        "cookies go no other way. Without, passwords cross the network in clear.",
    )
    proxies: Texts = Field(
        default=(),
        description="Addresses of proxies in front of it, such as 10.0.0.7 or 10.0.0.0/24: what "
        "they say of where a request comes from is believed, for the limits on signing in.",
    )
    root_path: str = Field(
        default="",
        description="The path below which a proxy serves it, such as /prometheus; a proxy may take "
        "it away or pass it on.",
    )
    url: str = Field(
        default="",
        description="Where people find it, with the path below which it is served: "
        "https://desk.example/prometheus. Alerts link to its pages there; without, they have no "
        "links.",
    )
    sign_in_lasts: Duration = Field(
        default=timedelta(hours=12),
        description="How long a browser stays signed in.",
    )
    public_metrics: bool = Field(
        default=False,
        description="Whether /metrics is told to everybody; otherwise, where there are users or "
        "tokens, to a viewer.",
    )

    @field_validator("hosts")
    @classmethod
    def _without_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no name or address; write it without a port")
        return tuple(host.lower() for host in value)

    @field_validator("proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_network(each, strict=False)) for each in value)

    @field_validator("root_path")
    @classmethod
    def _of_plain_names(cls, value: str) -> str:
        path = value.removesuffix("/")
        if not _PREFIX_OF_PATHS.fullmatch(path):
            raise ValueError("must look like /prometheus")
        return path

    @field_validator("url")
    @classmethod
    def _of_pages(cls, value: str) -> str:
        if value and not _PAGES.fullmatch(value):
            raise ValueError("must look like https://desk.example/prometheus")
        return value.rstrip("/")

    @property
    def only_here(self) -> bool:
        """Whether only this machine reaches it, as far as these settings say."""
        return is_loopback(self.address) and not self.hosts


class FlowerSettings(_Section):
    """Flower, the web pages of Celery."""

    address: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Where it listens; any other than this machine's own only with basic_auth.",
    )
    port: int = Field(default=5555, ge=1, le=65535, description="The port it listens on.")
    url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where browsers find it, for the link on Operations, such as "
        "https://flower.example.com/; if not set, its port of this machine, for who looks from it.",
    )
    basic_auth: SecretStr = Field(
        default=SecretStr(""),
        description="Who may look: user:password, several separated by commas; better in a file "
        "that PROMETHEUS__FLOWER__BASIC_AUTH_FILE names.",
    )

    @field_validator("basic_auth")
    @classmethod
    def _of_users(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        for pair in secret.split(",") if secret else ():
            user, _, password = pair.partition(":")
            if not user.strip() or not password.strip():
                raise ValueError("must be user:password, several separated by commas")
        return value


class EodhdSettings(_Section):
    """The feed of prices of eodhd.com, for markets whose source is ``eodhd``."""

    token: SecretStr = Field(
        default=SecretStr(""),
        description="The API token; better in a file that PROMETHEUS__EODHD__TOKEN_FILE names.",
    )
    codes: Texts = Field(
        default=(),
        description="The feed's codes of exchanges, where they are not the usual ones: XTKS=TSE. "
        "An exchange named here is asked even if the feed does not list it.",
    )
    symbols: Texts = Field(
        default=(),
        description="The shares to load, each with its exchange's MIC: XNAS:AAPL, XLON:VOD. "
        "Prices in London are taken for pence; a share that is quoted in another currency than "
        "most on its exchange has it behind: XLON:CPG:USD.",
    )
    factors: Texts = Field(
        default=DEFAULT_FACTORS,
        description="The fund or index whose return is a market's factor, MKT at least: "
        "US_EQ:MKT=VTI.US. By default six for US_EQ.",
    )
    requests_per_minute: int = Field(
        default=REQUESTS_PER_MINUTE,
        ge=1,
        description="The most requests of one process in a minute; lower it where several "
        "processes use the token at once.",
    )
    readiness: Literal["last_date", "tickers", "bulk"] = Field(
        default="tickers",
        description="How far a sensor looks whether a session's prices are there: last_date, of "
        "three symbols (3 calls); tickers, how many of an exchange's have been updated too (5 "
        "calls); bulk, whether all its rows are there and stay as they are too (100 calls).",
    )
    url: str = Field(
        default=BASE_URL,
        description="Where the feed's interface is; https, or http on this machine.",
    )

    @field_validator("token")
    @classmethod
    def _of_one_word(cls, value: SecretStr) -> SecretStr:
        if not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("must be letters, digits, dots, dashes and underscores")
        return value

    @field_validator("url")
    @classmethod
    def _for_secrets(cls, value: str) -> str:
        # The token is in the URL of every request, and the URL in what is printed.
        try:
            parts = urlsplit(value)
            local = parts.hostname in ("127.0.0.1", "::1", "localhost")
            sound = parts.scheme == "https" or (parts.scheme == "http" and local)
            sound = sound and not re.search(r"[@\s\x00-\x1f\x7f-\x9f]", value)
            _ = parts.port
        except ValueError:
            sound = False
        if not sound or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must look like https://host/api; http only on this machine")
        return value

    @field_validator("codes", "symbols", "factors")
    @classmethod
    def _readable(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        given: dict[str, Any] = {str(info.field_name): value}
        if info.field_name == "symbols":
            if "codes" not in info.data:
                return value  # which of its exchanges have one is told when the codes are right
            given["codes"] = info.data["codes"]
        try:
            EodhdFeed(**given)
        except PrometheusError as error:
            raise ValueError(str(error)) from None
        return value

    def feed(self) -> EodhdFeed:
        """Return what the sources are told."""
        return EodhdFeed(
            token=self.token,
            url=self.url,
            requests_per_minute=self.requests_per_minute,
            symbols=self.symbols,
            codes=self.codes,
            factors=self.factors,
            readiness=self.readiness,
        )


class Address(SecretStr):
    """A URL of which all but the scheme is secret: whoever knows it can send there."""


class AlertSettings(_Section):
    """What is told of what goes wrong, by the channels below."""

    quiet: Duration = Field(
        default=timedelta(minutes=15),
        description="How long after a message of an alert the next one of it may be sent, however "
        "often it comes and goes.",
    )
    look_every: Duration = Field(
        default=timedelta(seconds=10),
        description="How often is looked for what is wrong, 15s at most. What may pass by itself, "
        "such as that no scheduler is at work, must have been so for six times that.",
    )
    late_after: Duration = Field(
        default=timedelta(minutes=15),
        description="How long a run may not have been made, or a job may wait for a worker, before "
        "it is said that it is late.",
    )
    ping_url: Address = Field(
        default=Address(""),
        description="A URL that is asked for while a scheduler is at work, of a service that tells "
        "somebody when it no longer is; better in a file that PROMETHEUS__ALERTS__PING_URL_FILE "
        "names.",
    )
    ping_every: Duration = Field(
        default=timedelta(minutes=1), description="How often it is asked for."
    )

    @field_validator("look_every")
    @classmethod
    def _twice_in_a_lease(cls, value: timedelta) -> timedelta:
        if value > timedelta(seconds=15):
            raise ValueError("must be at most 15s, or another process would look too")
        return value

    @field_validator("ping_url")
    @classmethod
    def _of_the_web(cls, value: Address) -> Address:
        url = value.get_secret_value()
        if url and not (_ADDRESS.fullmatch(url) and url.startswith(("https://", "http://"))):
            raise ValueError("must look like https://host/path")
        return value


class Settings(_Section):
    """Everything that can be set, merged and checked."""

    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    data: DataSettings = DataSettings()
    markets: MarketSettings = MarketSettings()
    pipelines: PipelineSettings = PipelineSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    workers: WorkerSettings = WorkerSettings()
    web: WebSettings = WebSettings()
    flower: FlowerSettings = FlowerSettings()
    eodhd: EodhdSettings = EodhdSettings()
    alerts: AlertSettings = AlertSettings()
    channels: dict[str, Address] = Field(
        default={},
        description="Names of your own to where alerts are sent, each a URL as apprise takes it: "
        "mailto://, slack://, json:// and a hundred more; better in files that variables such as "
        "PROMETHEUS__CHANNELS__DESK_FILE name.",
    )
    routes: dict[str, str] = Field(
        default={},
        description="Channel to the alerts it gets: conditions on market, pipeline, priority, "
        "kind and severity, alternatives behind semicolons, such as 'market=US_EQ,EU_EQ "
        "priority=CRITICAL; kind=scheduler_silent'. By default all.",
    )
    sources: dict[str, str] = Field(
        default={},
        description="Market to its source of prices: bundled, synthetic or eodhd. By default "
        "bundled for US_EQ and synthetic for all others.",
    )
    seed: int = Field(
        default=20_121_121,
        description="Seed of all synthetic prices; the same seed gives the same prices.",
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def origin(self, name: str) -> str:
        """Say where a setting's value came from, such as ``"database.url"``'s."""
        # A setting with keys of its own, such as `sources`, may come from several places.
        places = [at for key, at in self._origins.items() if f"{key}.".startswith(f"{name}.")]
        return ", ".join(places) or _DEFAULT

    def completed(self, origins: Mapping[str, str], **sections: BaseModel) -> Settings:
        """Copy with some sections replaced, and with where the values came from."""
        copy = self.model_copy(update=sections)
        copy._origins = dict(origins)  # noqa: SLF001  of the same class
        return copy

    @field_validator("channels")
    @classmethod
    def _with_urls(cls, value: dict[str, Address]) -> dict[str, Address]:
        problems = []
        for name, url in value.items():
            if not _CHANNEL.fullmatch(name):
                problems.append(f"{name!r} is no name of a channel: write letters, digits, - and _")
            if not _ADDRESS.fullmatch(url.get_secret_value()):
                problems.append(f"{name} must be a URL such as mailto://user:password@host")
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("routes")
    @classmethod
    def _of_channels(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        problems = []
        channels: dict[str, Address] | None = info.data.get("channels")  # or its faults are told
        for name, text in value.items():
            if channels is not None and name not in channels:
                problems.append(f"{name}: there is no such channel.{nearest(name, channels)}")
            try:
                read_route(text)
            except RouteError as error:
                problems += [f"{name}: {fault}" for fault in error.faults]
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("sources")
    @classmethod
    def _of_markets(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        eodhd: EodhdSettings | None = info.data.get("eodhd")
        problems = []
        for name, source in value.items():
            if eodhd is None and source == EODHD:
                continue  # its own faults are told; what it would serve is not known
            try:
                get_market(name)
                choose_sources({name: source}, eodhd=eodhd.feed() if eodhd else None)
            except PrometheusError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(" ".join(problems))
        return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a listing of all settings."""

    name: str
    """As in TOML, with its section: ``"database.url"``."""
    variable: str
    """The variable that sets it: ``"PROMETHEUS__DATABASE__URL"``."""
    value: str
    """As a person would write it; passwords are ``***``."""
    origin: str
    """Where the value came from: a variable, a file, or ``"default"``."""
    description: str


def load_settings(
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    holding: bool = False,
) -> Settings:
    """
    Read, merge and check the settings, and let this process know the markets they declare.

    Args:
        environ: By default this process' environment.
        cwd: Where ``prometheus.toml`` is looked for and relative paths start; by default the
            current folder.
        holding: Let a market whose declaration has faults be known, and held, instead of refusing
            all settings: for processes that serve other markets, too.

    Raises:
        SettingsError: With every fault: unknown sections and keys, values that cannot be used,
            files that cannot be read. No value of a secret is in its message.
    """
    reading = _Reading(os.environ if environ is None else environ, cwd or Path.cwd(), holding)
    values = reading.merged()
    settings = None
    # Of settings that are refused nothing comes into force, markets neither; yet what names one of
    # the new ones is no fault.
    before = declare(reading.declarations)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        reading.faults += map(reading.fault_of, error.errors(include_url=False))
    reading.faults += reading.contradictions(values)
    if settings is None or reading.faults:
        declare(before)
        raise SettingsError([*reading.held, *reading.faults])
    folder = reading.cwd / settings.data.folder.expanduser()
    changes: dict[str, BaseModel] = {"data": settings.data.model_copy(update={"folder": folder})}
    if not settings.database.url.get_secret_value():
        url = SecretStr(f"sqlite:///{folder / DATABASE_NAME}")
        changes["database"] = settings.database.model_copy(update={"url": url})
    keep_secret(secrets(settings))
    return settings.completed(reading.origins, **changes)


def listing(settings: Settings) -> tuple[Setting, ...]:
    """List all settings with their values and origins, in the order of the sections."""
    return tuple(
        Setting(
            name=".".join(path),
            variable=_variable(path),
            value=_shown(_value(settings, path)),
            origin=settings.origin(".".join(path)),
            description=field.description or "",
        )
        for path, field in fields()
    )


def defaults() -> tuple[Setting, ...]:
    """List all settings with their defaults, whatever is set here."""
    return listing(Settings())


def secrets(settings: Settings) -> tuple[SecretStr, ...]:
    """Return every value that is not for people: URLs with their passwords, passwords, tokens."""
    found: list[SecretStr] = []
    for path, _ in fields():
        value = _value(settings, path)
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, SecretStr):
                found.append(each)
            if isinstance(each, Address):
                found += map(SecretStr, tokens(each.get_secret_value()))
    return tuple(found)


def fields() -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Give every setting's path and its definition."""
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if section is None:
            yield (name,), field
        else:
            for key, inner in section.model_fields.items():
                yield (name, key), inner


class _Reading:
    """One reading of all sources: what they say, where each value came from, what is wrong."""

    def __init__(self, environ: Mapping[str, str], cwd: Path, holding: bool) -> None:
        self.cwd = cwd
        self.faults: list[str] = []
        self.held: list[str] = []
        """Faults of markets that are held, for which alone nothing is refused."""
        self.origins: dict[str, str] = {}
        self.declarations: tuple[Declaration, ...] = ()
        self._environ = environ
        self._holding = holding

    def merged(self) -> dict[str, Any]:
        """Return the values of all sources as nested tables, the strongest source's for each."""
        merged: dict[str, Any] = {}
        for path, value, origin in [*self._file(), *self._secret_files(), *self._variables()]:
            self.origins[".".join(path)] = origin
            if len(path) == 1:
                merged[path[0]] = value
            else:
                merged.setdefault(path[0], {})[path[1]] = value
        return merged

    def fault_of(self, error: ErrorDetails) -> str:
        """Write a fault that the model found, with the place its value came from."""
        path = tuple(str(part) for part in error["loc"][:2])
        name = ".".join(path)
        at = self.origins.get(name)
        if at is None:
            # A fault of a section as a whole lies in any of the places that set something in it.
            within = [at for key, at in self.origins.items() if key.startswith(f"{name}.")]
            at = " and ".join(dict.fromkeys(within)) or name
        reason = error.get("ctx", {}).get("error")
        if reason is not None:
            return f"{at}: {reason}"
        message = error["msg"][:1].lower() + error["msg"][1:]
        return (
            f"{at}: {message}" if _is_secret(path) else f"{at}: {message}, not {error['input']!r}"
        )

    def contradictions(self, values: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with durations of which each alone is right."""
        faults = []
        for (longer, shorter), times, text in _LONG_ENOUGH:
            lasts, of = self._duration(values, longer), self._duration(values, shorter)
            if lasts is not None and of is not None and lasts < times * of:
                places = (self.origins.get(name, name) for name in (longer, shorter))
                said = text.format(format_duration(lasts), format_duration(of))
                faults.append(f"{' and '.join(dict.fromkeys(places))}: {said}")
        return faults

    @staticmethod
    def _duration(values: Mapping[str, Any], name: str) -> timedelta | None:
        """Return what a setting will be; ``None`` if it is no duration, which is told already."""
        section, key = name.split(".")
        if key not in values.get(section, {}):
            default: timedelta = getattr(getattr(Settings(), section), key)
            return default
        try:
            return _DURATIONS.validate_python(values[section][key])
        except ValidationError:
            return None

    def _file(self) -> Iterator[tuple[tuple[str, ...], Any, str]]:
        try:
            configuration = read_configuration(self._environ, self.cwd)
        except SettingsError as error:
            self.faults += error.faults
            return
        if configuration is None:
            return
        self.declarations, _ = configuration.declarations()
        for each in self.declarations:
            holds = self._holding and not each.misnamed
            (self.held if holds else self.faults).extend(each.faults)
        for name, table in configuration.tables.items():
            field = Settings.model_fields.get(name)
            at = configuration.place(name)
            if field is None:
                self.faults.append(f"{at}: no such section.{nearest(name, _sections())}")
            elif not _has_keys(field):
                yield (name,), table, at
            elif not isinstance(table, dict):
                self.faults.append(f"{at}: must be a section: [{name}]")
            else:
                for key, value in table.items():
                    if name == MARKETS and key in configuration.market_tables:
                        continue  # a market that is declared
                    at = configuration.place(name, key)
                    if self._known(name, key, at):
                        yield (name, key), value, at

    def _secret_files(self) -> Iterator[tuple[tuple[str, ...], Any, str]]:
        for variable in sorted(self._environ):
            path = self._path(variable.removesuffix(FILE_SUFFIX))
            if not variable.endswith(FILE_SUFFIX) or path is None:
                continue
            file = self._environ[variable]
            if not file:
                continue
            try:
                text = read_secret(variable, self.cwd / Path(file).expanduser())
            except SettingsError as error:
                self.faults += error.faults
                continue
            yield path, text, f"{variable}={file}"

    def _variables(self) -> Iterator[tuple[tuple[str, ...], Any, str]]:
        for variable in sorted(self._environ):
            if not variable.startswith(PREFIX):
                self._say_misspelt(variable)
                continue
            if variable.endswith(FILE_SUFFIX) and self._path(variable.removesuffix(FILE_SUFFIX)):
                continue
            path = self._path(variable)
            if path is None:
                self._say_unknown(variable)
            elif self._environ[variable]:
                yield path, self._environ[variable], variable

    @staticmethod
    def _path(variable: str) -> tuple[str, ...] | None:
        """Return the setting that a variable sets, if there is one."""
        if not variable.startswith(PREFIX):
            return None
        name, _, key = variable.removeprefix(PREFIX).partition("__")
        field = Settings.model_fields.get(name.lower())
        if field is None:
            return None
        section = _section(field)
        if section is not None:
            return (name.lower(), key.lower()) if key.lower() in section.model_fields else None
        if _has_keys(field):
            if name.lower() in _CHANNEL_SECTIONS:
                key = key.lower()
            return (name.lower(), key) if key else None
        return None if key else (name.lower(),)

    def _say_unknown(self, variable: str) -> None:
        name, _, key = variable.removeprefix(PREFIX).partition("__")
        field = Settings.model_fields.get(name.lower())
        if field is None:
            hint = nearest(name, (each.upper() for each in _sections()))
            self.faults.append(f"{variable}: no such section: {name!r}.{hint}")
        elif not _has_keys(field):
            self.faults.append(f"{variable}: no such setting. Did you mean '{PREFIX}{name}'?")
        elif not key:
            self.faults.append(
                f"{variable}: the key is missing; write {PREFIX}{name}__KEY with two underscores"
            )
        else:
            self._known(name.lower(), key, variable)

    def _say_misspelt(self, variable: str) -> None:
        """Say that a variable of ours with an underscore too few would be overlooked."""
        if variable.startswith("PROMETHEUS_"):
            wanted = _squeezed().get(_UNDERSCORES.sub("_", variable))
            if wanted is not None:
                self.faults.append(f"{variable}: not read. Did you mean '{wanted}'?")

    def _known(self, name: str, key: str, at: str) -> bool:
        section = _section(Settings.model_fields[name])
        if section is None or key in section.model_fields:
            return True
        keys = list(section.model_fields)
        if at.startswith(PREFIX):
            keys = [each.upper() for each in keys]
        told = nearest(key, keys)
        if key.endswith(FILE_SUFFIX.lower()) and key.removesuffix(FILE_SUFFIX.lower()) in keys:
            told = f" A variable names a file: {PREFIX}{name.upper()}__{key.upper()}."
        self.faults.append(f"{at}: no such key in {name}.{told}")
        return False


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _has_keys(field: FieldInfo) -> bool:
    return _section(field) is not None or field.annotation in (dict[str, str], dict[str, Address])


def _is_secret(path: tuple[str, ...]) -> bool:
    kinds = (SecretStr, Address, dict[str, Address])
    return any(
        path[: len(known)] == known and field.annotation in kinds for known, field in fields()
    )


def _squeezed() -> dict[str, str]:
    """Give every variable by its name with single underscores."""
    names = (_variable(path) for path, _ in fields())
    return {_UNDERSCORES.sub("_", name): name for name in names}


def _sections() -> list[str]:
    return list(Settings.model_fields)


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


def _value(settings: Settings, path: tuple[str, ...]) -> object:
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


def _shown(value: object) -> str:
    match value:
        case Address():
            scheme, is_url, _ = value.get_secret_value().partition("://")
            return f"{scheme}://***" if is_url else ""
        case SecretStr():
            secret = value.get_secret_value()
            return safe_url(secret) if "://" in secret else "***" if secret else ""
        case timedelta():
            return format_duration(value)
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{key}={_shown(each)}" for key, each in value.items())
        case None:
            return "(automatic)"
    return str(value)
