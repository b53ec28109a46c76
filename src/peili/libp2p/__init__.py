"""The wire: multistream-select, TLS 1.3, yamux, identify and ping, as far as libp2p is needed here."""
