"""Tokens per role on a real InfluxDB: each is enough for its work, and for nothing else."""

import stat
from pathlib import Path

import pytest

from cli.common import configuration
from queries.influxql import InfluxQL, QueryError
from runtime.config import Influxdb, Plant
from services.influx_tokens import ROLES, InfluxApi, make_tokens
from services.influxdb import InfluxDB
from store.influx_writer import InfluxWriter

pytestmark = pytest.mark.services
QUERY = 'SELECT value FROM "tokens" WHERE "n" = $n'


def of(influx: InfluxDB, role: str) -> Influxdb:
    """How the process of a role finds the database."""
    config = Influxdb(url=influx.url, org=influx.org, bucket=influx.bucket, tokens_dir=influx.tokens_dir)
    return config.as_role(role)


async def write(config: Influxdb, line: str) -> list[str]:
    """Write one line as the sink does; what InfluxDB said when it refused, nothing when it took it."""
    told: list[str] = []

    class Refused(Exception):
        pass

    async def refused(sentence: str) -> None:
        told.append(sentence)
        raise Refused  # the writer itself would try for ever

    writer = InfluxWriter(config, 10.0, refused)
    try:
        assert await writer.write([line]) == []
    except Refused:
        pass
    finally:
        await writer.close()
    return told


def read(config: Influxdb, n: str) -> list[float]:
    """Values of a point as `twin query` asks for them."""
    client = InfluxQL(config, 10.0)
    try:
        return [float(value) for value in client.select(QUERY, {"n": n}, {"value": "float"})["value"]]
    finally:
        client.close()


async def test_the_sink_writes_and_the_viewer_reads_and_neither_does_the_other(influx: InfluxDB) -> None:
    """What the sink's token wrote, the viewer's reads; the sink is shown nothing, the viewer writes nothing."""
    sink, viewer = of(influx, "sink"), of(influx, "viewer")
    assert await write(sink, "tokens,n=1 value=42.5 1700000000000000000") == []
    assert read(viewer, "1") == [42.5]
    with pytest.raises(QueryError, match="database not found: plant, or this token may not read it"):
        read(sink, "1")
    (said,) = await write(viewer, "tokens,n=2 value=1 1700000000000000000")
    assert "status 403" in said or "status 401" in said or "status 404" in said
    assert viewer.token not in said
    assert read(viewer, "2") == []


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_make_tokens_or_see_those_of_others(influx: InfluxDB, role: str, tmp_path: Path) -> None:
    """With a role's token neither a token can be made nor another one be seen."""
    api = InfluxApi(influx.url, of(influx, role).token)
    with pytest.raises(Exception, match=r"40[134]|has no"):
        make_tokens(api, influx.org, influx.bucket, tmp_path)
    assert list(tmp_path.iterdir()) == []
    try:
        seen = api.ask("/api/v2/authorizations")["authorizations"]
    except OSError:
        seen = []
    assert seen == []


def test_tokens_are_made_once_and_again_when_influxdb_forgot_them(influx: InfluxDB, tmp_path: Path) -> None:
    """A second call keeps the tokens; one that InfluxDB does not know is replaced. Files are their owner's only."""
    api = InfluxApi(influx.url, influx.token)
    files = make_tokens(api, influx.org, influx.bucket, tmp_path)
    first = [path.read_text() for path in files]
    assert [path.name for path in files] == list(ROLES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert [path.read_text() for path in make_tokens(api, influx.org, influx.bucket, tmp_path)] == first
    files[0].write_text("forgotten\n")
    again = [path.read_text() for path in make_tokens(api, influx.org, influx.bucket, tmp_path)]
    assert again[0] not in ("forgotten\n", first[0])
    assert again[1:] == first[1:]


def test_the_addresses_of_our_own_influxdb_hold_no_operator_token(influx: InfluxDB) -> None:
    """`environment()`, which other programs get, has the token that only reads, and the folder of the roles'."""
    env = influx.environment()
    assert influx.token not in env.values()
    assert env["INFLUX_TOKEN"] == (influx.tokens_dir / "viewer").read_text().strip()


def test_every_process_takes_its_own_token(influx: InfluxDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """With INFLUX_TOKENS_DIR the sink writes with its token, who looks reads with the other, and an agent has none."""
    for key, value in influx.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("INFLUX_TOKEN")
    tokens = {role: configuration(None, role).influxdb.token for role in (*ROLES, "validation")}
    expected = {role: (influx.tokens_dir / role).read_text().strip() for role in ROLES}
    assert tokens == {**expected, "validation": ""}
    assert Plant().influxdb.token == ""
