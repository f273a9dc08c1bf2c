"""A processor: which frames it names, and what it may not do."""

from __future__ import annotations

import pytest

from flowcatd.errors import LocalError
from flowcatd.frames import Cancel, End, Frame, InputAudio, InputDtmf
from flowcatd.pipeline.processor import Processor, down, up
from tests.builders import Rig, VirtualScope, at_once


class Both(Processor):
    """Handles two types with one method and one type in both directions."""

    @down(InputDtmf, End)
    def one(self, frame: Frame) -> None:
        """Down."""

    @up(InputDtmf)
    def other(self, frame: Frame) -> None:
        """Up."""


class Child(Both):
    """Overrides a handler, and adds one."""

    @down(InputDtmf, End)
    def one(self, frame: Frame) -> None:
        """Another way."""

    @down(Cancel)
    def more(self, frame: Frame) -> None:
        """One more."""


def test_handlers_are_found_by_direction_and_type() -> None:
    """As decorated, inherited ones included."""
    assert Both.down_handlers == {InputDtmf: "one", End: "one"}
    assert Both.up_handlers == {InputDtmf: "other"}
    assert Child.down_handlers == {InputDtmf: "one", End: "one", Cancel: "more"}
    assert Child.up_handlers == {InputDtmf: "other"}


def test_one_method_may_be_decorated_twice() -> None:
    """The types add up, in both directions."""

    class Twice(Processor):
        @up(Cancel)
        @down(InputDtmf)
        @down(End)
        def any(self, frame: Frame) -> None:
            """Whatever."""

    assert Twice.down_handlers == {End: "any", InputDtmf: "any"}
    assert Twice.up_handlers == {Cancel: "any"}


def test_two_handlers_for_one_type_are_refused_when_the_class_is_made() -> None:
    """Nobody could say which is meant."""
    with pytest.raises(LocalError, match="handles InputDtmf twice"):

        class Torn(Processor):
            @down(InputDtmf)
            def one(self, frame: Frame) -> None:
                """One."""

            @down(InputDtmf)
            def two(self, frame: Frame) -> None:
                """Two."""


@pytest.mark.parametrize("direction", ["push", "push_up"])
def test_pushing_before_the_chain_is_linked_is_a_bug(direction: str) -> None:
    """And is told as one, with the frame's type and nothing of what it carries."""
    with pytest.raises(LocalError, match="InputAudio was pushed before the chain was linked"):
        getattr(Both(), direction)(InputAudio(b"secret", 8000, 0))


def test_a_processor_knows_its_call_once_linked_and_not_before() -> None:
    """`linked` is the first moment at which it may push."""

    class Eager(Processor):
        def linked(self) -> None:
            """Push at once."""
            self.push(InputDtmf(str(self.epoch.value)))

    scope = VirtualScope()
    eager = Eager()
    rig = Rig([eager], scope)
    assert rig.tail == [InputDtmf("0")]
    assert eager.scope is scope


def test_a_processor_is_called_by_its_class_and_closes_without_a_word() -> None:
    """Unless it says otherwise."""
    child = Child()
    assert child.name == "child"
    at_once(child.close())
