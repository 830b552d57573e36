"""How are models served? Bytes go from a client to the replica that has the least to do and back,
behind keys and limits; nothing here knows Ray or vLLM.

front.py decides (keys, routes, limits, whom to ask), connections.py and tls_server.py say how many
clients may come, client_connection.py and replica_connection.py move bytes, exchange.py is one
request on its way, pool.py the replicas of a model, metrics.py what is counted, replica.py the
other end: what a replica's server adds to its application, endpoint.py what a stage that asks sees.
"""
