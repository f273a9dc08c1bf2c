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
sdp, offer   session descriptions, and what two sides agree on
"""
