"""Wire formats, one protocol a file: bytes <-> domain, pure; thin listeners beside them where a socket is needed."""
