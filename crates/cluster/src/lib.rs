//! Components as data, PKI, configuration and supervision of a cluster.
