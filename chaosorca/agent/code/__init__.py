"""Analysis of machine code: bytes in, breakpoint sites out."""
