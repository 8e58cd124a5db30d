"""Protobuf schemas (`*.proto`) and the modules generated from them (`make proto`)."""
