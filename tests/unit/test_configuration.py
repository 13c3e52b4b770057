"""``prometheus.toml``: the markets it declares, and its faults with their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from prometheus.configuration import SettingsError, database_url, declare_markets
from prometheus.core.market_state import MarketState, get_all_market_states, get_market_state
from prometheus.core.markets import declare, get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import DeclarationError, UnknownMarketError
from prometheus.settings import load_settings

MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)

MINE = """
[markets]
enabled = ["MINE", "NORDIC"]

[markets.MINE]
zone = "Europe/Paris"
hours = { days = "Mon-Fri", open = "08:00", close = "20:00" }

[markets.NORDIC]
members = ["XSTO", "XHEL"]

[sources]
MINE = "synthetic"
"""


DOCUMENT = Path(__file__).parents[2] / "docs" / "markets.md"


@pytest.fixture(autouse=True)
def _nothing_stays_declared() -> Iterator[None]:
    before = declare(())
    yield
    declare(before)


def write(cwd: Path, text: str) -> Path:
    path = cwd / "prometheus.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_bring_their_markets(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    settings = load_settings({}, tmp_path)
    assert settings.markets.enabled == ("MINE", "NORDIC")
    assert get_market("NORDIC").members == ("XSTO", "XHEL")
    assert get_market_state("MINE", MONDAY) is MarketState.SESSION
    assert TradingCalendar("MINE").horizon_source == "by its own hours in prometheus.toml"
    (tmp_path / "prometheus.toml").unlink()
    load_settings({}, tmp_path)
    with pytest.raises(UnknownMarketError):
        get_market("MINE")


def test_a_look_at_calendars_reads_the_markets_alone(tmp_path: Path) -> None:
    write(tmp_path, "[workers]\nconcurrency = 'many'\n" + MINE)
    declare_markets({}, tmp_path)
    assert get_market_state("MINE", MONDAY) is MarketState.SESSION


def test_each_of_many_faults_is_told_with_its_line(tmp_path: Path) -> None:
    """One message a fault, in the order of the file."""
    path = write(
        tmp_path,
        """\
[markets.PAIR]
members = [
  "XNYS",
  "XPRA", "XNYC",
]
preopen = "30m"

[markets.MINE]
zone = "Europe/Pari"
hours = [
  { days = "Mon-Thu", open = "09:00", close = "17:00" },
  { days = "Fir", open = "09:00", close = "15:00" },
]
holidays = [{ country = "FX" }, { market = "XPARI" }]

[[markets.OTHER.hours]]
from = 2026-02-01
days = "Mon-Fri"
open = "09:00"
close = "08:00"

[[markets.OTHER.hours]]
from = 2026-01-01
days = "Sat"
open = "09:00"
close = "12:00"
breaks = ["12:30-13:00"]

[markets.OTHER]
zone = "UTC"
pre_open = 30

[markets.OTHER.special]
2026-12-24 = { close = "13:00", resaon = "Christmas Eve" }

[markets.LONG]
zone = "UTC"
hours = { days = "daily", open = "17:00-1d", close = "18:00" }

[markets.BOTH]
members = ["XNYS"]
cut = "00:00"

[markets.XLON]
members = ["XNYS"]

[markets."my-eq"]
members = ["XNYS"]

[markets.fx_glob]
members = ["XNYS"]

[markets.EMPTY]
""",
    )
    with pytest.raises(SettingsError) as caught:
        declare_markets({}, tmp_path)
    found = [fault.removeprefix(f"{path}:") for fault in caught.value.faults]
    begins = [
        "6 [markets.PAIR] preopen: no such key. Did you mean 'pre_open'?",
        "2 [markets.PAIR] members: no exchange is called 'XNYC'. Did you mean 'XNYS'?",
        "9 [markets.MINE] zone: no zone is called 'Europe/Pari'. Did you mean 'Europe/Paris'?",
        "12 [markets.MINE] hours 2 days: no day is called 'Fir'. Did you mean 'Fri'?",
        "14 [markets.MINE] holidays 1: holidays has no country 'FX'.",
        "14 [markets.MINE] holidays 2: holidays has no market 'XPARI'. Did you mean 'XPAR'?",
        "20 [markets.OTHER] hours 1 close: 08:00 is not after the open, 09:00",
        "23 [markets.OTHER] hours 2 from: from 2026-01-01 comes after from 2026-02-01",
        "27 [markets.OTHER] hours 2 breaks: break 12:30-13:00 is not inside the session",
        "34 [markets.OTHER] special 2026-12-24 resaon: no such key. Did you mean 'reason'?",
        "31 [markets.OTHER] pre_open: 30 is no buffer",
        "38 [markets.LONG] hours 1 days: no day is called 'daily'",
        "42 [markets.BOTH] cut: a market has either members or hours of its own",
        "45 [markets.XLON] members: the name XLON is taken",
        "47 [markets.my-eq]: 'my-eq' cannot be the name of a queue",
        "50 [markets.fx_glob]: 'fx_glob' differs from 'FX_GLOB' in its capitals only",
        "53 [markets.EMPTY]: it says nothing of when it trades",
    ]
    assert [fault[: len(begin)] for fault, begin in zip(found, begins, strict=True)] == begins


def test_a_date_that_there_is_not_hides_no_other_fault(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
[markets.DESK]
zone = "Europe/Pari"
hours = { days = "Mon-Fri", open = "08:00", close = "20:00", from = 2026-1-5 }
closed = [2026-12-24, 2026-13-01]  # 2026-14-01
last = 2027-02-30

[markets.PAIR]
members = ["XNYC"]

[workers]
concurrency = 2026-02-31
""",
    )
    begins = [
        "2 [markets.DESK] zone: no zone is called 'Europe/Pari'.",
        "3 [markets.DESK] hours 1 from: 2026-1-5 is no date such as 2026-12-24",
        "4 [markets.DESK] closed 2026-13-01: '2026-13-01' is no date such as 2026-12-24",
        "5 [markets.DESK] last: 2027-02-30 is no date such as 2026-12-24",
        "8 [markets.PAIR] members: no exchange is called 'XNYC'.",
    ]
    concurrency = "11 [workers] concurrency: input should be a valid integer, not 2026-02-31"
    for load, more in ((declare_markets, []), (load_settings, [concurrency])):
        with pytest.raises(SettingsError) as caught:
            load({}, tmp_path)
        found = [fault.removeprefix(f"{path}:") for fault in caught.value.faults]
        wanted = [*begins, *more]
        assert [fault[: len(each)] for fault, each in zip(found, wanted, strict=True)] == wanted


def test_what_was_in_force_stays_when_the_file_has_faults(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    load_settings({}, tmp_path)
    for load in (lambda: declare_markets({}, tmp_path), lambda: load_settings({}, tmp_path)):
        write(tmp_path, MINE.replace("08:00", "10:00").replace("XSTO", "XSTOO"))
        with pytest.raises(SettingsError, match=r"'XSTOO'\. Did you mean 'XSTO'"):
            load()
        assert get_market_state("MINE", MONDAY) is MarketState.SESSION
    # Also when the fault is another section's.
    write(tmp_path, MINE.replace("08:00", "16:00") + "[workers]\nconcurrency = 0\n")
    with pytest.raises(SettingsError, match="concurrency"):
        load_settings({}, tmp_path)
    assert get_market_state("MINE", MONDAY) is MarketState.SESSION


def test_a_process_holds_a_market_with_faults_and_serves_the_others(tmp_path: Path) -> None:
    path = write(tmp_path, MINE.replace("XSTO", "XSTOO") + '[markets.EU_EQ]\npre_open = "soon"\n')
    settings = load_settings({}, tmp_path, holding=True)
    assert settings.markets.enabled == ("MINE", "NORDIC")
    assert get_market_state("MINE", MONDAY) is MarketState.SESSION
    assert get_market_state("XPAR", MONDAY) is MarketState.SESSION
    for name, said in (("NORDIC", "'XSTOO'"), ("EU_EQ", "'soon' is no buffer")):
        with pytest.raises(DeclarationError, match=said) as caught:
            TradingCalendar(name)
        assert [fault.startswith(f"{path}:") for fault in caught.value.faults] == [True]
        with pytest.raises(DeclarationError):
            get_market_state(name, MONDAY)
    assert set(get_all_market_states(MONDAY, ["EU_EQ", "US_EQ"]).unknown) == {"EU_EQ"}
    load_settings({}, write(tmp_path, MINE).parent, holding=True)
    assert TradingCalendar("EU_EQ").is_trading_day(MONDAY.date())


@pytest.mark.parametrize(
    "wrong",
    [
        '[markets."my-eq"]\nmembers = ["XPAR"]\n',
        '[markets.unacked]\nmembers = ["XPAR"]\n',
        "[workers]\nconcurrency = 0\n",
        "[markets.MINE\n",
    ],
)
def test_what_is_no_single_markets_fault_is_refused_by_every_process(
    tmp_path: Path, wrong: str
) -> None:
    write(tmp_path, MINE + wrong)
    with pytest.raises(SettingsError, match="settings: 1 fault"):
        load_settings({}, tmp_path, holding=True)


def test_who_refuses_a_file_names_the_faults_of_markets_too(tmp_path: Path) -> None:
    write(tmp_path, MINE.replace("XSTO", "XSTOO") + "[workers]\nconcurrency = 0\n")
    with pytest.raises(SettingsError, match="settings: 2 faults"):
        load_settings({}, tmp_path, holding=True)


def test_a_market_key_without_a_table_is_an_unknown_setting(tmp_path: Path) -> None:
    path = write(tmp_path, '[markets]\nMINE = "XNYS"\nenabeld = []\n')
    with pytest.raises(SettingsError) as caught:
        load_settings({}, tmp_path)
    assert caught.value.faults == (
        f"{path}:2 [markets] MINE: no such key in markets. Known: enabled.",
        f"{path}:3 [markets] enabeld: no such key in markets. Did you mean 'enabled'?",
    )


def test_a_bracket_too_many_is_told_by_commands_and_processes_alike(tmp_path: Path) -> None:
    path = write(tmp_path, '[[markets.MINE]]\nmembers = ["XNYS"]\n')
    for load in (declare_markets, load_settings):
        with pytest.raises(SettingsError) as caught:
            load({}, tmp_path)
        assert caught.value.faults == (
            f"{path}:1 [markets.MINE]: a market is one table: write [markets.MINE] once",
        )


def test_what_is_wrong_with_a_shipped_market_is_told_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
[markets.US_EQ]
pre_open = "soon"

[sources]
US_EQ = "eodhd"

[eodhd]
token = "abc"
symbols = ["XNYS:IBM", "XNAS:AAPL"]
""",
    )
    with pytest.raises(SettingsError) as caught:
        load_settings({}, tmp_path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}:2 [markets.US_EQ] pre_open: 'soon' is no buffer")


def test_the_examples_of_the_documentation_are_right(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```toml\n(.+?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    write(tmp_path, "\n".join(blocks))
    declare_markets({}, tmp_path)
    assert len(blocks) == 5
    assert TradingCalendar("DESK").horizon == date(2027, 12, 31)
    assert TradingCalendar("DESK").session(date(2027, 1, 4)).open.hour == 8
    assert TradingCalendar("METALS").session(date(2026, 11, 26)).early_close
    assert TradingCalendar("COIN").session(date(2026, 11, 26)).close.hour == 22
    assert TradingCalendar("NORDIC").phases(date(2026, 11, 26)).post_close_ends_at.hour == 19


@pytest.mark.parametrize(
    ("variables", "toml"),
    [
        ({}, ""),
        ({"PROMETHEUS__DATABASE__URL": ""}, '[database]\nurl = "sqlite:////of/toml.db"'),
        ({"PROMETHEUS__DATABASE__URL": "sqlite:////of/variable.db"}, "[database]\nurl = 'x'"),
        ({"PROMETHEUS__DATABASE__URL_FILE": "secret"}, '[database]\nurl = "sqlite:////a.db"'),
        ({"PROMETHEUS__DATA__FOLDER": "~/elsewhere"}, '[data]\nfolder = "here"'),
        ({}, '[data]\nfolder = "here"'),
    ],
)
def test_database_is_found_where_the_settings_have_it(
    tmp_path: Path, variables: dict[str, str], toml: str
) -> None:
    (tmp_path / "prometheus.toml").write_text(toml)
    (tmp_path / "secret").write_text("postgresql://ada:s3cret@host/rows\n")
    known = load_settings(variables, tmp_path).database.url.get_secret_value()
    assert database_url(variables, tmp_path) == known


def test_file_with_the_database_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    variables = {"PROMETHEUS__DATABASE__URL_FILE": "nowhere"}
    with pytest.raises(SettingsError, match=r"URL_FILE=.*nowhere: No such file"):
        database_url(variables, tmp_path)
    (tmp_path / "nowhere").touch()
    with pytest.raises(SettingsError, match=r"URL_FILE=.*nowhere: the file is empty"):
        database_url(variables, tmp_path)
