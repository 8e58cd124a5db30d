"""`store.url`: one server or several, each reached in the same way."""

import pytest

from gateway.config_sources import ConfigError
from gateway.store.client import Store
from gateway.store.dial import Address, Dial
from tests.gateway.store.valkey import Valkey


@pytest.mark.parametrize(
    ("url", "seeds"),
    [
        ("redis://store", [("store", 6379)]),
        ("redis://store:7000/0", [("store", 7000)]),
        ("redis://a:1,b:2,c", [("a", 1), ("b", 2), ("c", 6379)]),
        ("redis://user:p%40ss,word@a:1, b:2/0?client_name=x", [("a", 1), ("b", 2)]),
        ("rediss://:secret@[::1]:1,[fe80::2]:2", [("::1", 1), ("fe80::2", 2)]),
        ("unix:///run/a,b/store.sock", [("/run/a,b/store.sock", 0)]),
    ],
)
def test_each_server_that_a_url_names(url: str, seeds: list[tuple[str, int]]) -> None:
    assert Dial(url, 1.0).seeds == [Address(*seed) for seed in seeds]


def test_credentials_and_options_are_those_of_all() -> None:
    dial = Dial("redis://user:p%40ss,word@a:1,b:2/3?client_name=x", 1.0)
    for address in (*dial.seeds, Address("found-later", 9)):
        connection = dial.connection(address)
        assert connection.username == "user" and connection.password == "p@ss,word"
        assert connection.client_name == "x" and connection.db == 3
        assert f"{connection.host}:{connection.port}" == str(address)  # type: ignore[union-attr]
    assert "word" not in dial.shown and "a:1,b:2" in dial.shown


@pytest.mark.parametrize(
    "url", ["redis://a:port", "redis://a:1,b:70000", "http://a", "redis://a?x=1"]
)
def test_a_url_that_is_none_is_the_users_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        Dial(url, 1.0)


async def test_several_servers_have_to_be_a_cluster(own_valkey: Valkey) -> None:
    port = own_valkey.listen()
    with pytest.raises(ConfigError, match="is in no cluster"):
        await Store.connect(f"redis://127.0.0.1:{port},127.0.0.1:1")
