"""Bytes and bodies of any kind, against an invariant that each module states."""
