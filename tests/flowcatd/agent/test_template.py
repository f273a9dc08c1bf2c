"""Facts about templates: what they print, what they refuse, and that they never do anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.functions import LIMIT, TABLE, TemplateError
from flowcatd.agent.template import MAX_SOURCE, Scope, fields_in, parse_template

SCOPE = Scope(
    variables={"name": "Ann", "empty": "", "count": "7"},
    event="hello there",
    result={
        "intent": "sales",
        "score": 0.95,
        "deep": {"list": ["a", "b"]},
        "none": None,
        "big": 10**30,
    },
    session={"caller": "x"},
    slots={"day": "Monday"},
)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("Hello {{ .Variables.name }}!", "Hello Ann!"),
        ("{{.Event}}", "hello there"),
        ("{{ .Session.caller }}{{ .Slots.day }}", "xMonday"),
        ("[{{ .Variables.missing }}]", "[]"),
        ("{{ .Result.deep.list }}", "[a b]"),
        ("{{ .Result.deep }}", "map[list:[a b]]"),
        ("{{ .Result.score }} {{ .Result.missing.deeper }}", "0.95 "),
        ('{{ index .Result "intent" }}', "sales"),
        ('{{ index .Result "deep" "list" 1 }}', "b"),
        ('{{ (index .Result "deep").list }}', "[a b]"),
        ('{{ eq .Event "hi" "hello there" }}', "true"),
        ("{{ eq .Variables.count 7 }}", "false"),
        ("{{ eq true 1 }}", "false"),
        ("{{ ne .Variables.name `Bob` }}", "true"),
        ('{{ lt .Variables.count 10 }} {{ ge 2 2.0 }} {{ gt "b" "a" }} {{ le 3 2 }}', "true true true false"),
        ('{{ and .Variables.name .Variables.empty "x" }}|', "|"),
        ("{{ or .Variables.empty .Variables.name }}", "Ann"),
        ("{{ not .Variables.empty }}", "true"),
        ("{{ len .Variables.name }}{{ len .Result.deep.list }}{{ len nil }}", "320"),
        ('{{ contains .Event "lo th" }} {{ hasPrefix .Event "hell" }}', "true true"),
        ('{{ .Event | upper | printf "%s!" }}', "HELLO THERE!"),
        ('{{ lower "ABC" }}{{ trim "  x " }}', "abcx"),
        ('{{ printf "%c%d%s%q%v%%" 49 7 "s" "q" true }}', '17s"q"true%'),
        ('{{ printf "%03d|%5s|%-3s|" 7 "ab" "c" }}', "007|   ab|c  |"),
        ('{{ printf "%d %s" "x" }}', "%!d(text) %!s(MISSING)"),
        ('{{ printf "%c" 55296 }}', "\N{REPLACEMENT CHARACTER}"),
        ("{{ if .Variables.name }}yes{{ else }}no{{ end }}", "yes"),
        ("{{ if .Variables.empty }}a{{ else if eq 1 1 }}b{{ else }}c{{ end }}d", "bd"),
        ("{{ if .Variables.empty }}a{{ end }}", ""),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("a  {{- .Variables.name -}}  b", "aAnnb"),
        ("{{ 'a' }} {{ -3 }} {{ 1.50 }} {{ \"\\\"\\n\" }}", '97 -3 1.5 "\n'),
        ('{{ "}}" }}', "}}"),
        ("{{ nil }}{{ false }}", "false"),
        ('{{ index nil "x" }}{{ lower (eq true false) }}{{ eq true false }}', "falsefalse"),
        ("{{ not true }}{{ and true }}{{ lower true }}", "falsetruetrue"),
    ],
)  # fmt: skip
def test_a_template_prints(source, text):
    """Values, functions, pipes, branches, trimming and comments."""
    assert parse_template(source).render(SCOPE) == text


def test_a_key_is_compared_as_voicetyped_files_do():
    """A digit is its code, which printf turns into the character."""
    condition = parse_template('{{ eq (printf "%c" .Event) "1" }}')
    assert [condition.holds(Scope(event=ord(key))) for key in "12"] == [True, False]


@pytest.mark.parametrize(
    ("source", "holds"),
    [("", False), ("  ", False), ("false", False), ("<no value>", False), ("x", True), ("0", True)],
)
def test_a_condition_holds_unless_its_text_says_no(source, holds):
    """Empty, `false` and `<no value>` do not hold; anything else does."""
    assert parse_template(source).holds(SCOPE) is holds


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{", "character 1: '{{' without '}}'"),
        ("ab {{ .Event", "character 4: '{{' without '}}'"),
        ("{{ }}", "character 1: nothing between {{ and }}"),
        ("{{ /* }}", "character 4: '/' is not understood here"),
        ("{{ .Varables.x }}", "character 4: no '.Varables', did you mean 'Variables'?"),
        ("{{ .Zzz }}", "character 4: no '.Zzz'; there are .Variables, .Event, .Result, .Session, .Slots"),
        ("{{ .Event.x }}", "character 4: '.Event' has no parts"),
        ("{{ uppr .Event }}", "character 4: no function 'uppr', did you mean 'upper'?"),
        ("{{ . }}", "character 4: '.' is not understood here"),
        ("{{ lt 1 }}", "character 4: 'lt' wants 2 values, not 1"),
        ("{{ eq 1 }}", "character 4: 'eq' wants at least 2 values, not 1"),
        ("{{ .Event .Event }}", "character 4: a value is no function: it takes no arguments"),
        ('{{ .Event | "x" }}', "character 13: what follows '|' is not a function"),
        ("{{ .Event | }}", "character 15: a value is missing"),
        ("{{ (.Event }}", "character 14: a value is missing"),
        ("{{ (.Event | lower .Event }}", "character 14: 'lower' wants 1 values, not 2"),
        ("{{ (1 .Event) }}", "character 5: a value is no function: it takes no arguments"),
        ("{{ lower (1 | lower | }}", "character 25: a value is missing"),
        ("{{ lower len }}", "character 10: 'len' wants 1 values, not 0"),
        ("{{ .Event ) }}", "character 11: ')' is too much here"),
        ("{{ | }}", "character 4: '|' is not a value"),
        ("{{ if .Event }}", "character 4: this if has no end"),
        ("{{ if .Event }}{{ else }}{{ else }}{{ end }}", "character 4: this if has no end"),
        ("{{ else }}", "character 4: 'else' without an if"),
        ("{{ if .Event }}{{ end .Event }}", "character 23: '.Event' is too much here"),
        (r'{{ "\q" }}', "character 4: '\\q' is not an escape; use \\n \\t \\\\ or \\\""),
        ("{{ 1234567890123456789 }}", "character 4: a number this long is not kept exactly"),
        ("{{ __import__ }}", "character 4: no function '__import__'"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_refused_with_the_place(source, problem):
    """The message names the character and what is wrong."""
    with pytest.raises(TemplateError) as caught:
        parse_template(source)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "source",
    [
        "{{ lt .Variables.name 3 }}",
        "{{ lt .Result.deep 3 }}",
        "{{ len 3 }}",
        "{{ index .Result.deep.list 5 }}",
        '{{ index .Result.deep.list "x" }}',
        "{{ .Variables.name.first }}",
        "{{ .Result.big }}",
        "{{ lt .Result.big 1 }}",
        "{{ printf 3 }}",
    ],
)
def test_what_a_function_refuses_is_a_template_error(source):
    """Mistakes that depend on values are found when they happen."""
    with pytest.raises(TemplateError):
        parse_template(source).render(SCOPE)


def test_the_text_is_bounded():
    """A text longer than 64 KiB is an error, also inside printf."""
    scope = Scope(variables={"x": "y" * LIMIT})
    assert len(parse_template("{{ .Variables.x }}").render(scope)) == LIMIT
    for source in (
        "{{ .Variables.x }}{{ .Variables.x }}",
        '{{ len (printf "%s%s" .Variables.x .Variables.x) }}',
    ):
        with pytest.raises(TemplateError):
            parse_template(source).render(scope)


def test_the_source_is_bounded():
    """A template of more than 16 Ki characters, or nested beyond 32, is refused."""
    for source in (
        "x" * (MAX_SOURCE + 1),
        "{{" + "(" * 40 + "1" + ")" * 40 + "}}",
        "{{ if 1 }}" * 40,
    ):
        with pytest.raises(TemplateError):
            parse_template(source)
    chained = "{{ if 0 }}" + "{{ else if 0 }}" * 1_000 + "{{ end }}"
    with pytest.raises(TemplateError):
        parse_template(chained)


def test_evaluation_stops_at_the_first_that_decides():
    """As in Go, `and` and `or` do not evaluate what follows."""
    assert parse_template('{{ or "x" (len 3) }}{{ and false (len 3) }}').render(SCOPE) == "xfalse"


def test_the_fields_a_template_reads_are_known():
    """Through calls, members and branches."""
    template = parse_template(
        "{{ if .Slots.a }}{{ (index .Result `x`).y }}{{ else }}{{ lower .Variables.b }}{{ end }}"
    )
    assert fields_in(template) == {("Slots", "a"), ("Result",), ("Variables", "b")}


PIECES = st.sampled_from(
    ["{{", "}}", " ", "-", "(", ")", "|", '"a"', "'x'", "1", "2.5", "if", "else", "end", "true", "nil",
     ".Event", ".Variables.name", ".Result", ".Result.deep.list", ".Slots", "text", '"%c%d"', *TABLE]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(PIECES, max_size=14).map(" ".join) | st.text(), VALUES)
def test_a_template_does_nothing_but_print_or_refuse(source, value):
    """Whatever the source and the values: a text, or TemplateError."""
    scope = Scope(event=value, result={"deep": {"list": value}}, variables={"name": "x"})
    try:
        template = parse_template(source)
        text = template.render(scope)
        template.holds(scope)
    except TemplateError:
        return
    assert len(text) <= LIMIT


@given(
    st.lists(st.sampled_from(sorted(TABLE)), min_size=1, max_size=3),
    st.lists(VALUES, min_size=1, max_size=4),
)
def test_functions_take_any_values(names, values):
    """Every function, on every kind of value, gives a value or TemplateError."""
    args = " ".join(f".Result.v{number}" for number in range(len(values)))
    source = "{{ " + " | ".join(f"{name} {args}" for name in names) + " }}"
    try:
        template = parse_template(source)
        text = template.render(
            Scope(result={f"v{number}": value for number, value in enumerate(values)})
        )
    except TemplateError:
        return
    assert isinstance(text, str)
