"""A real recogniser process for judging: utterances in, texts out, through the port that calls use."""

from __future__ import annotations

import asyncio

from flowcatd.links.open import SpeechLink
from flowcatd.providers.stt import STT
from flowcatd.services import Failed, Hearing, Partial, SttEvent

APPOINTMENT = """public <utterance> = <yes> | <no> | <wish> | <when> | <part>;
<yes> = yes | yes please | yeah | sure | that is right | correct;
<no> = no | no thanks | no thank you;
<wish> = [ i want to | i would like to ] ( book | make | cancel | change ) ( an | my ) appointment
  | speak to an operator | goodbye | help | repeat that;
<when> = [ on ] <day> | [ on ] <day> <time> | <time> | tomorrow | next <day> | [ on ] <day> <part>;
<day> = monday | tuesday | wednesday | thursday | friday | saturday | sunday;
<time> = [ at ] <hour> [ o'clock | thirty | fifteen | am | pm ];
<hour> = one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve;
<part> = in the morning | in the afternoon | morning | afternoon;
"""

DIGITS = """public <utterance> = <digit>+;
<digit> = zero | one | two | three | four | five | six | seven | eight | nine;
"""

CARDS = """public <utterance> = <card> | <card> <card> | <card> <card> <card> | <rank> <card> | <rank> <rank>;
<card> = <rank> [ of ] ( clubs | hearts | diamonds | spades );
<rank> = ace | two | three | four | five | six | seven | eight | nine | ten | jack | queen | king;
"""


def any_of(*sentences: str) -> str:
    """Give the grammar of exactly these sentences."""
    return f"public <utterance> = {' | '.join(dict.fromkeys(sentences))};\n"


async def texts(grammar: str, utterances: list[bytes]) -> list[str]:
    """Hear each as a call of its own; what was understood, empty where it was rejected."""
    link = SpeechLink(STT["pocketsphinx"], 1)
    await link.start()
    try:
        return [await _hear(link, grammar, pcm) for pcm in utterances]
    finally:
        await link.close()


async def _hear(link: SpeechLink, grammar: str, pcm: bytes) -> str:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def on_event(event: SttEvent) -> None:
        if isinstance(event, Failed):
            answer.set_exception(AssertionError(event.reason))
        elif not isinstance(event, Partial):
            answer.set_result(event.text)

    ear = link.ear(on_event)
    ear.expect(Hearing(grammar))
    ear.start_utterance()
    for at in range(0, len(pcm), 640):
        ear.push_audio(pcm[at : at + 640])
    ear.end_utterance()
    try:
        return await answer
    finally:
        await ear.close()
