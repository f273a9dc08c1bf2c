"""A YAML document read with its line numbers, collecting everything that is wrong with it.

Dialog files are written by people, so one look should name every mistake with its line, its key,
what is allowed and the nearest known name. Scalars are taken as they are written ("no" is the word
no, "9:30" no number of seconds), which is also what Go does for the text fields of voicetyped.

Not a general loader: no objects are built from tags, and aliases are followed only where the
schema of the reader looks, so that a small file cannot become a large one.
"""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from flowcatd.errors import ConfigError, nearest

MAX_TEXT = 1_048_576
"""Characters in one file; the longest real dialog is some tens of thousands."""

_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"
_MAX_MERGES = 8  # `<<` inside `<<`: a document may refer to itself
_MAX_NESTING = 60  # the YAML reader recurses; Python's own limit is an order above
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Document:
    """The findings about one file, and typed looks at its nodes that add to them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []

    def compose(self, text: str) -> yaml.MappingNode | None:
        """Give the top mapping; None, with the error noted, when there is none."""
        if len(text) > MAX_TEXT:
            self.error(1, "", f"a dialog file has at most {MAX_TEXT} characters")
            return None
        try:
            if line := _too_deep(text):
                self.error(line, "", f"more than {_MAX_NESTING} levels inside each other")
                return None
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as problem:
            mark = problem.problem_mark or problem.context_mark
            self.error(_line(mark), "", f"this is not YAML: {problem.problem or problem.context}")
            return None
        except (yaml.YAMLError, ValueError) as problem:
            self.error(1, "", f"this is not YAML: {type(problem).__name__}")
            return None
        if not isinstance(root, yaml.MappingNode):
            self.error(1, "", "a dialog file is a mapping of keys to values")
            return None
        return root

    def error(self, line: int, key: str, problem: str) -> None:
        """Note something that must be changed."""
        self.errors.append(ConfigError(f"{self.where}:{line}", problem, key=key))

    def warn(self, line: int, key: str, problem: str) -> None:
        """Note something that is probably not meant."""
        self.warnings.append(ConfigError(f"{self.where}:{line}", problem, key=key))

    def mapping(
        self, node: yaml.Node, key: str, allowed: Iterable[str] | None = None
    ) -> dict[str, yaml.Node]:
        """Give key → node; notes what is no mapping, repeated keys and keys not `allowed`."""
        if _is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.error(line_of(node), key, "a mapping of keys to values is wanted here")
            return {}
        known = None if allowed is None else list(allowed)
        found: dict[str, yaml.Node] = {}
        for name_node, value in self._pairs(node, key, 0):
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            line = line_of(name_node)
            if not name:
                self.error(line, key, "a key is a plain word")
            elif known is not None and name not in known:
                guess = nearest(name, known) or f"; allowed are {', '.join(known)}"
                self.error(line, _join(key, name), f"unknown key{guess}")
            elif name in found:
                self.error(line, _join(key, name), "this key stands here twice")
            else:
                found[name] = value
        return found

    def sequence(self, node: yaml.Node, key: str) -> list[yaml.Node]:
        """Give the items; notes what is no list."""
        if _is_null(node):
            return []
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.error(line_of(node), key, "a list is wanted here")
        return []

    def texts(self, node: yaml.Node, key: str) -> list[tuple[str, yaml.Node]]:
        """Give the texts of a list, or of a single text standing for a list of one."""
        nodes = [node] if isinstance(node, yaml.ScalarNode) else self.sequence(node, key)
        return [
            (text, item)
            for number, item in enumerate(nodes)
            if (text := self.text(item, f"{key}[{number}]"))
        ]

    def text(self, node: yaml.Node, key: str) -> str:
        """Give a scalar as written; notes what is no scalar."""
        if not isinstance(node, yaml.ScalarNode):
            self.error(line_of(node), key, "a text is wanted here")
            return ""
        return "" if _is_null(node) else str(node.value)

    def truth(self, node: yaml.Node, key: str) -> bool:
        """Give true or false; notes anything else."""
        text = self.text(node, key)
        if text.lower() not in _TRUTHS:
            self.error(line_of(node), key, "true or false is wanted here")
        return _TRUTHS.get(text.lower(), False)

    def _pairs(
        self, node: yaml.MappingNode, key: str, depth: int
    ) -> list[tuple[yaml.Node, yaml.Node]]:
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        names = {pair[0].value for pair in own if isinstance(pair[0], yaml.ScalarNode)}
        for mark, merged in node.value:
            if mark.tag != _MERGE:
                continue
            if depth >= _MAX_MERGES or not isinstance(merged, yaml.MappingNode):
                self.error(line_of(mark), _join(key, "<<"), "'<<' wants one mapping to take over")
                continue
            for pair in self._pairs(merged, key, depth + 1):
                if isinstance(pair[0], yaml.ScalarNode) and pair[0].value not in names:
                    names.add(pair[0].value)
                    own.append(pair)
        return own


def line_of(node: yaml.Node) -> int:
    """Give the line on which the node begins, from 1."""
    return _line(node.start_mark)


def _line(mark: object) -> int:
    return int(getattr(mark, "line", 0)) + 1  # the C and the Python reader have marks of their own


def _too_deep(text: str) -> int:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_NESTING:
                return _line(event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return 0


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
