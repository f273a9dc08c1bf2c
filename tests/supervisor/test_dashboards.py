"""Facts about conf/prometheus and conf/grafana: they name only what the bridge really serves.

Every metric, label and fixed label value in an expression is looked up in a real exposition of a
small fleet, read by prometheus_client; a misspelt copy must be found. Where Debian's `prometheus`
is installed, promtool looks at the rules and at the exposition too.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics

from flowcatd.control import Fleet, WorkerLine
from flowcatd.metrics import Metrics
from supervisor.exposition import Exposition, Format

CONF = Path(__file__).parents[2] / "conf"
RULES = CONF / "prometheus/flowcatd.rules.yaml"
SCRAPE = CONF / "prometheus/scrape.yaml"
DASHBOARD = CONF / "grafana/flowcatd.json"

# Labels that Prometheus itself puts on every sample of a target.
TARGET = {"instance", "job"}
# What an unbounded or numeric label may be compared with is not ours to check.
FREE = {"worker", "version", "le"}

METRIC = re.compile(r"\bflowcatd_\w+")
SELECTOR = re.compile(r"\b(flowcatd_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Debian's prometheus is not installed"
)


@cache
def exposition() -> str:
    """What a small fleet with a retiring worker looks like to a scrape."""
    made = Exposition(0.0)
    lines = []
    for seat in range(3):
        shot = Metrics().snapshot(
            seat=seat, slot=seat % 2, pid=seat + 1, at_utc=1.0, uptime_seconds=1.0, begun=seat + 1.0
        )
        made.receive_snapshot(shot, 1.0)
        lines.append(
            WorkerLine(
                seat=seat, slot=seat % 2, pid=seat + 1, state="ready", generation=1, seconds=1
            )
        )
    made.receive_fleet(
        Fleet(
            version="1",
            pid=9,
            uptime_seconds=1.0,
            state="serving",
            slots=2,
            generation=1,
            restarts=0,
            config="",
            address="",
            workers=lines,
        ),
        1.0,
    )
    return made.render(Format.OPENMETRICS, 1.0)


@cache
def served() -> dict[str, dict[str, set[str]]]:
    """Every sample's name, its labels, and the values they have."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in openmetrics.text_string_to_metric_families(exposition()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def mistakes(expression: str, shown: str = "") -> list[str]:
    """What an expression, and the text that shows its labels, names and the bridge does not serve."""
    names = set(METRIC.findall(expression))
    found = [f"there is no {name}" for name in sorted(names - served().keys())]
    usable = TARGET.union(*(served().get(name, {}) for name in names))
    for name, matchers in SELECTOR.findall(expression):
        for label, operator, value in MATCHER.findall(matchers):
            known = served().get(name, {})
            if label not in known.keys() | TARGET:
                found.append(f"{name} has no label {label}")
            elif label in known and label not in FREE and "$" not in value:
                wanted = set(value.split("|")) if "~" in operator else {value}
                found += [f"{label} is never {word}" for word in sorted(wanted - known[label])]
    grouped = {word.strip() for group in GROUPING.findall(expression) for word in group.split(",")}
    used = (grouped | set(LEGEND.findall(shown))) - {""}
    return found + [f"nothing here has a label {label}" for label in sorted(used - usable)]


def rules() -> list[dict]:
    """All alert rules."""
    told = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in told["groups"] for rule in group["rules"]]


def panels() -> list[dict]:
    """All panels that show something."""
    told = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in told["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where it stands, the expression, and what shows its labels."""
    for rule in rules():
        yield rule["alert"], rule["expr"], json.dumps(rule["annotations"])
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    told = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in told["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"], ""
    for annotation in told["annotations"]["list"]:
        yield annotation["name"], annotation["expr"], annotation["titleFormat"]


ALL = list(expressions())


@pytest.mark.parametrize(
    ("expression", "shown"), [one[1:] for one in ALL], ids=[one[0] for one in ALL]
)
def test_every_name_label_and_value_is_served(expression, shown):
    """In rules, panels, variables and annotations alike."""
    assert mistakes(expression, shown) == []


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_anywhere_in_the_files_is_served(path):
    """Wherever it stands: nothing escapes by being in a place the test does not know."""
    text = re.sub(r"uid\W+flowcatd-fleet", "", path.read_text(encoding="utf-8"))
    assert set(METRIC.findall(text)) - served().keys() == set()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("flowcatd_calls_live", "flowcatd_calls_alive"),
        ("flowcatd_calls_refused_total", "flowcatd_calls_refused"),
        ("flowcatd_worker_loop_lag_seconds_bucket", "flowcatd_worker_loop_lag_seconds_buckets"),
        ('stage="current"', 'stage="curent"'),
        ('part="own"', 'parts="own"'),
        ('cause=~"full|overloaded"', 'cause=~"full|overladen"'),
        ("by (instance, cause)", "by (instance, causes)"),
        ("{{ $labels.reason }}", "{{ $labels.reasons }}"),
    ],
)
def test_a_misspelt_copy_of_the_rules_is_found(right, wrong):
    """A check that cannot fail is none: each of these slips is caught."""
    broken = [(e.replace(right, wrong), s.replace(right, wrong)) for _, e, s in ALL]
    assert broken != [one[1:] for one in ALL]
    assert [mistake for one in broken for mistake in mistakes(*one)] != []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_tells_what_to_do(rule):
    """A severity, one line of summary that names the daemon, and a description to act on."""
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert "$labels.instance" in rule["annotations"]["summary"]
    assert len(rule["annotations"]["summary"]) < 120
    assert len(rule["annotations"]["description"]) > 80


def test_alert_names_are_unique():
    """Prometheus would take two of one name for one."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_the_example_scrapes_the_port_we_serve_by_default():
    """And loads the rules that lie beside it; the rules' job is its job."""
    told = yaml.safe_load(SCRAPE.read_text(encoding="utf-8"))
    assert told["rule_files"] == [RULES.name]
    job = told["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9464"]}]
    assert f'up{{job="{job["job_name"]}"}} == 0' in [rule["expr"] for rule in rules()]


def test_panels_do_not_overlap_and_have_units():
    """The grid has 24 columns; every panel asks the data source that was chosen."""
    told = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert told["uid"] == "flowcatd-fleet"
    assert told["templating"]["list"][0]["type"] == "datasource"
    taken = set()
    for panel in told["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in told["panels"]}) == len(told["panels"])
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
    rows = {panel["title"] for panel in told["panels"] if panel["type"] == "row"}
    assert rows == {
        "Now",
        "Calls",
        "Answer latency",
        "Loop lag",
        "Garbage collection",
        "Memory",
        "Workers",
        "Refusals",
        "SIP",
        "Sound over RTP",
    }


# --- as Prometheus itself sees it -----------------------------------------------------------------


def tell(*words: str, text: str = "", cwd: Path = CONF) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        ["promtool", *words],
        input=text,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@promtool
def test_promtool_takes_the_rules_and_the_example():
    """Syntax of every expression and template."""
    assert tell("check", "rules", str(RULES)).returncode == 0
    assert tell("check", "config", str(SCRAPE), cwd=SCRAPE.parent).returncode == 0


@promtool
def test_promtool_has_nothing_to_say_about_the_exposition():
    """Its linter knows the naming conventions."""
    made = Exposition(0.0)
    done = tell("check", "metrics", text=made.render(Format.TEXT, 0.0))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


SERIES = {
    'up{job="flowcatd",instance="a"}': "0x30",
    'flowcatd_bridge_connected{instance="a",job="flowcatd"}': "1x1000",
    'flowcatd_bridge_connected{instance="b",job="flowcatd"}': "0x1000",
    'flowcatd_worker_up{instance="a",job="flowcatd",worker="1"}': "0x1000",
    'flowcatd_worker_up{instance="b",job="flowcatd",worker="1"}': "0x1000",
    'flowcatd_workers{instance="a",job="flowcatd",state="ready"}': "1x1000",
    'flowcatd_workers_wanted{instance="a",job="flowcatd"}': "2x1000",
    'flowcatd_worker_restarts_total{instance="a",job="flowcatd"}': "0+1x1000",
    'flowcatd_calls_refused_total{instance="a",job="flowcatd",cause="full"}': "0+1x1000",
    'flowcatd_calls_refused_total{instance="a",job="flowcatd",cause="draining"}': "0+1x1000",
    'flowcatd_calls_live{instance="a",job="flowcatd",worker="0",stage="current"}': "90x1000",
    'flowcatd_calls_capacity{instance="a",job="flowcatd",worker="0",stage="current"}': "100x1000",
    'flowcatd_worker_loop_lag_seconds_bucket{instance="a",job="flowcatd",worker="0",le="0.04"}': (
        "0+90x1000"
    ),
    'flowcatd_worker_loop_lag_seconds_bucket{instance="a",job="flowcatd",worker="0",le="0.06"}': (
        "0+100x1000"
    ),
    'flowcatd_worker_loop_lag_seconds_bucket{instance="a",job="flowcatd",worker="0",le="+Inf"}': (
        "0+100x1000"
    ),
    'flowcatd_last_reload_ok{instance="a",job="flowcatd"}': "0x1000",
    'flowcatd_memory_bytes{instance="a",job="flowcatd",worker="0",stage="current",part="own"}': (
        "1000000+10000x1000"
    ),
    'flowcatd_records_lost_total{instance="a",job="flowcatd"}': "0+1x1000",
    'flowcatd_calls_leftovers_total{instance="a",job="flowcatd"}': "0x1000",
    **{
        f'flowcatd_sip_registrations{{instance="{instance}",job="flowcatd",worker="{worker}",'
        f'stage="current",state="{state}"}}': f"{count}x1000"
        for instance, worker, state, count in (
            ("a", 0, "wanted", 2),
            ("a", 0, "bound", 1),
            ("a", 1, "wanted", 0),
            ("a", 1, "bound", 0),
            # Two workers tend one trunk each, and both are registered.
            ("b", 0, "wanted", 1),
            ("b", 0, "bound", 1),
            ("b", 1, "wanted", 1),
            ("b", 1, "bound", 1),
        )
    },
    'flowcatd_trunks_dead{instance="a",job="flowcatd",worker="0",stage="current"}': "1x1000",
    'flowcatd_trunks_dead{instance="b",job="flowcatd",worker="0",stage="current"}': "0x1000",
    'flowcatd_call_mos_sum{instance="a",job="flowcatd"}': "0+30x1000",
    'flowcatd_call_mos_count{instance="a",job="flowcatd"}': "0+10x1000",
    'flowcatd_call_mos_sum{instance="b",job="flowcatd"}': "0+42x1000",
    'flowcatd_call_mos_count{instance="b",job="flowcatd"}': "0+10x1000",
    'flowcatd_rtp_lost_total{instance="a",job="flowcatd"}': "0+50x1000",
    'flowcatd_rtp_packets_total{instance="a",job="flowcatd",direction="in"}': "0+950x1000",
    'flowcatd_rtp_lost_total{instance="b",job="flowcatd"}': "0+10x1000",
    'flowcatd_rtp_packets_total{instance="b",job="flowcatd",direction="in"}': "0+990x1000",
    'flowcatd_sip_screened_total{instance="a",job="flowcatd"}': "0+6000x1000",
    'flowcatd_sip_screened_total{instance="b",job="flowcatd"}': "0+60x1000",
    'flowcatd_rtp_foreign_total{instance="a",job="flowcatd"}': "0+100x1000",
    'flowcatd_rtp_foreign_total{instance="b",job="flowcatd"}': "0+10x1000",
}
FIRES = {
    "FlowcatdDown": ("10m", [{"job": "flowcatd", "instance": "a"}]),
    "FlowcatdSilent": ("10m", [{"job": "flowcatd", "instance": "b"}]),
    "FlowcatdWorkerSilent": ("10m", [{"job": "flowcatd", "instance": "a", "worker": "1"}]),
    "FlowcatdWorkersMissing": ("10m", [{"job": "flowcatd", "instance": "a", "state": "ready"}]),
    "FlowcatdWorkerLost": ("20m", [{"job": "flowcatd", "instance": "a"}]),
    "FlowcatdRefusingCalls": ("10m", [{"instance": "a", "cause": "full"}]),
    "FlowcatdNearCapacity": ("10m", [{"instance": "a"}]),
    "FlowcatdLoopLag": ("10m", [{"instance": "a", "worker": "0"}]),
    "FlowcatdReloadFailed": ("10m", [{"job": "flowcatd", "instance": "a"}]),
    "FlowcatdRecordsLost": ("10m", [{"job": "flowcatd", "instance": "a"}]),
    "FlowcatdLeftovers": ("10m", []),
    **dict.fromkeys(
        (
            "FlowcatdRegistrationLost",
            "FlowcatdTrunkDead",
            "FlowcatdSoundPoor",
            "FlowcatdRtpLoss",
            "FlowcatdSipFlood",
            "FlowcatdRtpStrangers",
        ),
        ("1h", [{"instance": "a"}]),
    ),
    "FlowcatdMemoryGrows": (
        "5h",
        [
            {
                "job": "flowcatd",
                "instance": "a",
                "worker": "0",
                "stage": "current",
                "part": "own",
            }
        ],
    ),
}


@promtool
def test_alerts_fire_when_they_should(tmp_path):
    """On made-up series, by Prometheus's own evaluation: joins and thresholds are right."""
    severity = {rule["alert"]: rule["labels"] for rule in rules()}
    test = {
        "rule_files": ["bare.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in SERIES.items()],
                "alert_rule_test": [
                    {
                        "eval_time": at,
                        "alertname": name,
                        "exp_alerts": [{"exp_labels": one | severity[name]} for one in labels],
                    }
                    for name, (at, labels) in FIRES.items()
                ],
            }
        ],
    }
    # Annotations are compared too, so the copy that is tested has none.
    bare = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in bare["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(bare))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = tell("test", "rules", "test.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
