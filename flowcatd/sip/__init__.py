"""SIP without I/O (RFC 3261 and its family): bytes and `now` in, bytes and events out.

trouble      the room's one error, with the answer to give
uri          SIP, SIPS and tel addresses (§19.1, RFC 3966)
header       values of header fields: addresses, Via, CSeq, lists, parameters
words        header names, status codes
message      requests and responses: parse, check, build, write
vet          what a user agent refuses before it looks at the call (§8.2)
framing      messages out of byte streams and WebSockets; keep-alives
credentials  challenges and their answers as text
digest       passwords both ways (RFC 7616, RFC 8760)
timers       T1, T2, T4 and what follows from them
event        what transactions are told, tell and send
machine      the four machines of §17 with RFC 6026, each one table
transaction  all transactions of a worker: matching, timers, limits

attribute    values of a= lines                    sdp        session descriptions as values and text
session      what two sides agreed on, and codecs  agreement  two descriptions make a session
proposal     our offers and answers                offer      one call's negotiation

dialog       §12: identity, routes, CSeq           refresh    session timers (RFC 4028)
invite       the INVITE usage as one table, over   desk, incoming, outgoing, change, body
transfer     REFER and Replaces                    refer      their values
agent        the user agent: the door to all of it agent_event  what it is given and tells
adopt        a call taken up by another process    ladder     what was said, for operators

trunk        who we are connected to               trunk_file conf/trunks.d
route        who is calling, which agent answers   guard      floods, quotas, numbers
resolve      RFC 3263 without sockets              register   REGISTER, kept alive
"""
