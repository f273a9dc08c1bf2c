"""One job of the conversation each: vad, turns, hear, think, speak, playout, record, transcript."""
