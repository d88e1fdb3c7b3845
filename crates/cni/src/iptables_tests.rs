//! The codec against tables as kernels give them: gVisor's empty nat table, and tables with chains, jumps and rules
//! without targets.
