"""Frames through processors: the chain, its routes, branches, queues and observers."""
