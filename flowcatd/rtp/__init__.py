"""RTP: what one audio stream is on the wire, and what is heard of it. Pure; time comes as `now`.

wire      packet (RFC 3550 §5) · rtcp (§6) · digits (RFC 4733) · comfort (RFC 3389)
receiving source (whom we believe) · sequence (numbers that wrap) · jitter (order and delay) ·
          conceal (what was lost) · stretch (a period more or less) · receiver (20 ms of PCM)
sending   sender (20 ms of PCM to packets)
judging   report (when to report what by RTCP) · mos (ITU-T G.107) · watchdog (nothing comes)
stream    all of it, as one leg of a call has it; codec describes a payload
"""
