"""The other side of a call: a caller for people and for tests.

script.py      what to say when, given what was heard (pure)
listener.py    what a telephone's earpiece plays, and what of it is speech (pure)
mouth.py       what a telephone's mouthpiece sends (pure)
person.py      who calls: script, mouth and listener joined, whatever the wire (pure)
handset.py     a person on a carrier's WebSocket (pure)
sip_handset.py a person on a SIP telephone (pure)
facts.py       what a call was like for its caller (pure)
stamp.py       frames that can be told apart, and the verdict on what came back (pure)
address.py     an address as a person writes it, made into a carrier's (pure)
sip_address.py the same for SIP (pure)
report.py      the conversation as text for a person and as JSON for a program (pure)
turns.py       texts, sound files and keys made into turns
voice.py       who speaks the texts
tape.py        both sides as a WAV file
phone.py       the WebSocket and the clock
sip_phone.py   the telephone around a SIP handset: sound, timers
sip_line.py    its sockets
keyboard.py    lines typed while the call is up
cli.py         `flowcatd call`
"""
