"""Facts about trunks as data: the manual, the strict reader, and what a reload finds different."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import ConfigError
from flowcatd.options import Secret
from flowcatd.sip.trunk import (
    REREGISTER,
    TRUNKS_MAX,
    Identity,
    Inbound,
    Peer,
    Route,
    Trunk,
    compare_trunks,
    join_trunks,
)
from flowcatd.sip.trunk_file import check_trunk, find_pattern_problem, load_trunk
from flowcatd.sip.uri import parse_uri

CONF = Path(__file__).parents[3] / "conf" / "trunks.d"
MANUAL = (CONF / "carrier.toml").read_text(encoding="utf-8")
LEAST = '[trunk]\nname = "t"\n'


def _trunk(name: str, **inbound) -> Trunk:
    return Trunk(Peer(name=name), inbound=Inbound(**inbound))


def _digest(name: str, user: str, realm: str = "r", sources: tuple[str, ...] = ()) -> Trunk:
    return _trunk(
        name, digest=True, user=user, password=Secret("env:P"), realm=realm, sources=sources
    )


# --- files


def test_every_shipped_file_is_a_trunk():
    """The shipped files load together, and only the loopback one is switched on."""
    files = sorted(CONF.glob("*.toml"))
    trunks = join_trunks(
        (path.name, load_trunk(path.read_text(encoding="utf-8"), path.name)) for path in files
    )
    assert list(trunks) == ["loopback"]
    assert all(network.is_loopback for network in trunks["loopback"].networks)
    assert trunks["loopback"].routes == (Route(),)


def test_the_manual_names_every_setting_in_the_order_of_the_types():
    """Nothing is missing from it, nothing is left over."""
    document = tomllib.loads(MANUAL)
    routes = document.pop("route")
    sections = {
        "trunk" if section.name == "peer" else section.name: section.default_factory
        for section in dataclasses.fields(Trunk)
        if section.name != "routes"
    }
    typed = {
        name: [each.name for each in dataclasses.fields(kind)] for name, kind in sections.items()
    }
    assert {name: list(table) for name, table in document.items()} == typed
    assert list(document) == list(typed)
    written = {key for route in routes for key in route}
    assert written == {each.name for each in dataclasses.fields(Route)}


def test_the_manual_explains_every_setting():
    """Above each setting stands prose."""
    lines = MANUAL.splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if line[:1].isalpha() and not above.startswith("#")
    ]
    assert bare == []


def test_a_file_with_a_name_only_is_a_trunk_that_does_nothing():
    """What is left out is safe: nobody may call over it, and nobody is called."""
    trunk = load_trunk(LEAST, "t")
    assert trunk == Trunk(Peer(name="t"))
    assert not trunk.takes_calls
    assert not trunk.outbound.enabled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trnk]\n", "c:1: trnk: is not a section, did you mean 'trunk'?"),
        ("[xyzzy]\n", "c:1: xyzzy: is not a section; there are trunk, account, register,"),
        ("trunk = 1\n", "c:1: trunk: is a section: write [trunk]"),
        (LEAST + "prox = []\n", "c:3: trunk.prox: is not a setting, did you mean 'proxies'?"),
        (LEAST + "enabled = 1\n", "c:3: trunk.enabled: must be true or false"),
        (LEAST + "proxies = 'sip:a'\n", "c:3: trunk.proxies: must be a list of strings"),
        (LEAST + "proxies = [1]\n", "c:3: trunk.proxies: must be a list of strings"),
        (LEAST + "proxies = ['tel:+49']\n", "c:3: trunk.proxies: must begin with sip: or sips:"),
        (LEAST + "proxies = ['a b']\n", "c:3: trunk.proxies: must be a SIP URI such as"),
        (LEAST + "transport = 'tsl'\n", "trunk.transport: must be one of auto, udp, tcp, tls,"),
        (LEAST + "transport = 'tsl'\n", "did you mean 'tls'?"),
        (LEAST + "domain = 'a b'\n", "trunk.domain: must be a host name"),
        (LEAST + "options_seconds = -1\n", "trunk.options_seconds: must lie between 0 and 3600"),
        (LEAST + "options_seconds = true\n", "trunk.options_seconds: must be a number"),
        ("[trunk]\nname = 'T'\n", "c:2: trunk.name: is needed: small letters"),
        ("[media]\n", "c: trunk.name: is needed"),
        (LEAST + "[account]\nuser = 'a\\tb'\n", "account.user: may hold no"),
        (LEAST + '[account]\npassword = "hunter2"\n', "account.password: must be a reference"),
        (LEAST + "[inbound]\nsources = ['10.0.0.1/8']\n", "inbound.sources: must be addresses"),
        (LEAST + "[inbound]\nsources = ['0.0.0.0/0']\n", "inbound.sources: everybody may call"),
        (LEAST + "[inbound]\ndigest = true\n", "inbound.user: is needed with inbound.digest"),
        (
            LEAST + "[inbound]\ndigest = true\nuser = 'a'\n",
            "inbound.password: is needed with inbound.digest",
        ),
        (LEAST + "[inbound.variables]\nAuthorization = 'a'\n", "may not take credentials"),
        (LEAST + "[inbound.variables]\n'X Y' = 'a'\n", "must name SIP headers"),
        (LEAST + "[inbound.variables]\nX = '1a'\n", "a variable is letters, digits and _"),
        (LEAST + "[inbound.variables]\nX = 1\n", "inbound.variables: must be a table of strings"),
        (LEAST + "[inbound]\nvariables = 1\n", "inbound.variables: must be a table of strings"),
        (LEAST + "[media]\ncodecs = ['pcm']\n", "media.codecs: must be one of opus, g722,"),
        (LEAST + "[media]\ncodecs = []\n", "media.codecs: must name one codec at least"),
        (LEAST + "[session]\nseconds = 90\nleast_seconds = 100\n", "c:4: session.seconds: is less"),
        (LEAST + "[identity]\ncaller_id = '0301234567'\n", "must be an international number"),
        (LEAST + "[outbound]\nprefixes = ['49']\n", "outbound.prefixes: must be + and digits"),
        (LEAST + "[outbound]\ncountry = '049'\n", "outbound.country: must be a country code"),
        (LEAST + "[outbound.dial]\n'+49' = 'x'\n", "outbound.dial: must be digits"),
        (LEAST + "[outbound]\nenabled = true\n", "trunk.proxies: is needed to call"),
        (LEAST + "[register]\nenabled = true\n", "account.user: is needed to register"),
        (
            LEAST + "[register]\nenabled = true\n[account]\nuser = 'a'\n",
            "register.registrar: is needed, or trunk.proxies",
        ),
        (LEAST + "[register]\nregistrar = 'x'\n", "register.registrar: must be a SIP URI"),
        (
            LEAST + "transport = 'udp'\nproxies = ['sips:a.example']\n",
            "c:3: trunk.transport: is not safe enough",
        ),
        (LEAST + "[route]\n", "c:3: route: routes stand under [[route]]"),
        (LEAST + "[[route]]\n\n[[route]]\nnumbr = '1'\n", "c:6: route[2].numbr: is not a setting"),
        (LEAST + "[[route]]\nnumber = '1'\nprefix = '2'\n", "c:3: route[1]: has more than one of"),
        (LEAST + "[[route]]\npattern = '(a'\n", "c:4: route[1].pattern: is no pattern"),
        (LEAST + "[[route]]\nagent = 'A B'\n", "c:4: route[1].agent: an agent is small letters"),
        (LEAST + "[[route]]\nnumber = 'a b'\n", "must be a number or a user name"),
        (LEAST + "a = \n", "c:3: is not TOML: Invalid value"),
        ("[trunk", "c:1: is not TOML"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text, said):
    """File, line, key and the nearest word stand in the error."""
    problems = [str(problem) for problem in check_trunk(text, "c")]
    assert any(said in problem for problem in problems), problems
    with pytest.raises(ConfigError):
        load_trunk(text, "c")


def test_too_many_routes_are_refused():
    """A list has a limit."""
    text = LEAST + "[[route]]\n" * 1001
    assert "there are more than 1000" in str(check_trunk(text, "c")[0])


def test_a_password_in_the_file_is_not_repeated():
    """A secret that somebody wrote down does not reach the log."""
    problems = check_trunk(LEAST + '[account]\npassword = "hunter2"\n', "c")
    assert "hunter2" not in "".join(map(str, problems))


@given(st.text(max_size=200))
def test_any_text_is_a_trunk_or_a_config_error(text):
    """Reading never fails in any other way."""
    problems = check_trunk(text, "c")
    assert all(isinstance(problem, ConfigError) for problem in problems)


# --- patterns


@pytest.mark.parametrize(
    "pattern",
    ["", r"\+49(30|40)\d{4,8}", "[1-9].*", "(?:a|b)c?", r"\+.{4}", "100", "[^0]x+", "a{2,}"],
)
def test_small_patterns_are_allowed(pattern):
    """What number plans need can be written."""
    assert find_pattern_problem(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(a|b)*", "a**", "+49", "a*b*c*d*", "(?=a)", r"\1", r"(a)\b", "a" * 201, ")"),
        *("[z-a]", "(a|" * 5 + "b" + ")" * 5, "a|" * 17, "{2}", "a{5,2}", "(?P<x>a)"),
    ],
)
def test_patterns_that_may_cost_too_much_are_refused(pattern):
    """Nothing whose matching could take more than a bounded number of steps."""
    assert find_pattern_problem(pattern) != ""


# --- sets


def test_trunks_that_cannot_be_told_apart_are_refused():
    """The same network, the same digest user, or the same name twice."""
    one = _trunk("one", sources=("192.0.2.0/24",))
    two = _trunk("two", sources=("192.0.2.0/24",))
    with pytest.raises(ConfigError, match=r"b: inbound.sources: is the same as of trunk 'one'"):
        join_trunks([("a", one), ("b", two)])
    with pytest.raises(ConfigError, match=r"b: trunk.name: 'one' stands in two files"):
        join_trunks([("a", one), ("b", one)])
    with pytest.raises(ConfigError, match=r"inbound.user"):
        join_trunks([("a", _digest("a", "u")), ("b", _digest("b", "u"))])


def test_a_disabled_trunk_takes_nobodys_place():
    """What is switched off is as if it were not there."""
    off = Trunk(Peer(name="off", enabled=False), inbound=Inbound(sources=("192.0.2.1",)))
    on = _trunk("on", sources=("192.0.2.1",))
    assert list(join_trunks([("a", off), ("b", on)])) == ["on"]


def test_strangers_are_challenged_in_one_realm():
    """Trunks that let in from anywhere, or from the same network, share their realm."""
    with pytest.raises(ConfigError, match=r"inbound.realm"):
        join_trunks([("a", _digest("a", "u", "r")), ("b", _digest("b", "v", "s"))])
    net = ("192.0.2.0/24",)
    with pytest.raises(ConfigError, match=r"inbound.realm"):
        join_trunks([("a", _digest("a", "u", "r", net)), ("b", _digest("b", "v", "s", net))])
    apart = join_trunks([("a", _digest("a", "u", "r", net)), ("b", _digest("b", "v", "s"))])
    assert list(apart) == ["a", "b"]


def test_there_may_be_only_so_many_trunks():
    """The set is bounded."""
    with pytest.raises(ConfigError, match="one trunk more than"):
        join_trunks((f"f{n}", _trunk(f"t{n}")) for n in range(TRUNKS_MAX + 1))


def test_a_difference_names_what_to_do_and_nothing_else():
    """Added, removed, and changed by section; an equal trunk is not mentioned."""
    same, old, gone = _trunk("same"), _trunk("x"), _trunk("gone")
    new = dataclasses.replace(old, routes=(Route(),), identity=Identity(private=True))
    fresh = _trunk("fresh")
    found = compare_trunks(
        {each.name: each for each in (same, old, gone)},
        {each.name: each for each in (same, new, fresh)},
    )
    assert (found.added, found.removed) == ((fresh,), (gone,))
    assert found.changed == ((new, frozenset({"routes", "identity"})),)
    assert not found.changed[0][1] & REREGISTER
    assert found
    assert not compare_trunks({"same": same}, {"same": same})


def test_where_a_trunk_leads():
    """Domain, registrar and next hops follow from what is written."""
    plain = Trunk(Peer(name="p", proxies=("sip:u@a.example:5070", "sip:b.example;transport=tls")))
    assert plain.domain == "a.example"
    assert str(plain.registrar) == "sip:a.example:5070"
    tcp = dataclasses.replace(plain, peer=dataclasses.replace(plain.peer, transport="tcp"))
    assert [str(hop) for hop in tcp.next_hops] == [
        "sip:u@a.example:5070;transport=tcp",
        "sip:b.example;transport=tls",
    ]
    named = dataclasses.replace(plain, peer=dataclasses.replace(plain.peer, domain="d.example"))
    assert named.registrar == parse_uri("sip:d.example")
    assert Trunk().domain == ""
