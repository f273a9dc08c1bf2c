"""The registered words of SIP: methods, header names and their compact forms, status codes and phrases.

Data only, from the IANA registry of SIP parameters and RFC 3261 §21, RFC 3262, RFC 3323, RFC 3892,
RFC 4028, RFC 4412, RFC 5079, RFC 8197, RFC 8688.
"""

from __future__ import annotations

from typing import Final

COMPACT: Final = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

SINGLE: Final = frozenset(
    {
        *("from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type"),
        *("expires", "min-expires", "session-expires", "min-se", "rseq", "rack", "event"),
        *("refer-to", "replaces", "date", "content-disposition", "timestamp"),
    }
)
"""Fields that have one value: twice is 400 (RFC 4475 §3.3.8)."""

KNOWN_METHODS: Final = frozenset(
    {
        *("ACK", "BYE", "CANCEL", "INFO", "INVITE", "MESSAGE", "NOTIFY", "OPTIONS", "PRACK"),
        *("PUBLISH", "REFER", "REGISTER", "SUBSCRIBE", "UPDATE"),
    }
)
"""A method of these that we do not take is 405; any other is 501 (§8.2.1, §21.5.2)."""

_LONG: Final = """
Accept Accept-Encoding Accept-Language Alert-Info Allow Authentication-Info Authorization Call-ID
Call-Info Contact Content-Disposition Content-Encoding Content-Language Content-Length Content-Type
CSeq Date Diversion Error-Info Event Expires From Geolocation History-Info Identity In-Reply-To Join
Max-Forwards MIME-Version Min-Expires Min-SE Organization P-Access-Network-Info P-Asserted-Identity
P-Preferred-Identity Path Priority Privacy Proxy-Authenticate Proxy-Authentication-Info
Proxy-Authorization Proxy-Require RAck Reason Record-Route Refer-Sub Refer-To Referred-By
Remote-Party-ID Replaces Reply-To Require Retry-After Route RSeq Server Service-Route Session-Expires
Session-ID SIP-ETag SIP-If-Match Subject Subscription-State Supported Target-Dialog Timestamp To
Unsupported User-Agent User-to-User Via Warning WWW-Authenticate
"""

SPELLED: Final = {name.lower(): name for name in _LONG.split()}
"""Long names by their lower-case form."""

KEYS: Final = {name: key for key, name in SPELLED.items()} | COMPACT
"""Lower-case long names by the spelling that nearly all peers use: a look-up instead of a parse."""

_PHRASES: Final = """
100 Trying
180 Ringing
181 Call Is Being Forwarded
182 Queued
183 Session Progress
199 Early Dialog Terminated
200 OK
202 Accepted
204 No Notification
300 Multiple Choices
301 Moved Permanently
302 Moved Temporarily
305 Use Proxy
380 Alternative Service
400 Bad Request
401 Unauthorized
402 Payment Required
403 Forbidden
404 Not Found
405 Method Not Allowed
406 Not Acceptable
407 Proxy Authentication Required
408 Request Timeout
410 Gone
412 Conditional Request Failed
413 Request Entity Too Large
414 Request-URI Too Long
415 Unsupported Media Type
416 Unsupported URI Scheme
420 Bad Extension
421 Extension Required
422 Session Interval Too Small
423 Interval Too Brief
428 Use Identity Header
429 Provide Referrer Identity
433 Anonymity Disallowed
436 Bad Identity-Info
437 Unsupported Certificate
438 Invalid Identity Header
480 Temporarily Unavailable
481 Call/Transaction Does Not Exist
482 Loop Detected
483 Too Many Hops
484 Address Incomplete
485 Ambiguous
486 Busy Here
487 Request Terminated
488 Not Acceptable Here
489 Bad Event
491 Request Pending
493 Undecipherable
494 Security Agreement Required
500 Server Internal Error
501 Not Implemented
502 Bad Gateway
503 Service Unavailable
504 Server Time-out
505 Version Not Supported
513 Message Too Large
580 Precondition Failure
600 Busy Everywhere
603 Decline
604 Does Not Exist Anywhere
606 Not Acceptable
607 Unwanted
608 Rejected
"""

PHRASES: Final = {int(line[:3]): line[4:] for line in _PHRASES.split("\n") if line}


def phrase_of(status: int) -> str:
    """The RFC's words for a status, or those of its class's first (§8.1.3.2)."""
    return PHRASES.get(status) or PHRASES.get(status // 100 * 100, "Unknown")


def spell(name: str) -> str:
    """A field's name as it is written, from its lower-case long form."""
    return SPELLED.get(name) or name.title()
