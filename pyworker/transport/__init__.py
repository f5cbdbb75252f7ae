"""The worker's end of the wire: from a socket to an engine and back, on two threads.

In reading order: `link` is what a connection is, `zmq` and `inproc` the two kinds, `session` the protocol of one link,
`loop` one link after another (the link's thread), `mailbox` the queues between the threads, `host` the engine's side of
them, `convert` and `limits` the wire's words in the engine's, `launch` how a worker learns where its router is.
"""
