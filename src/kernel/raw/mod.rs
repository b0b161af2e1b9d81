//! The raw system calls: the only unsafe code of the project, each block with its reason.
