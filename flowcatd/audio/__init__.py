"""Sample arithmetic: G.711, resampling, chunking, levels, WAV. Pure; bytes in, bytes out."""
