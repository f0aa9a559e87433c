"""Generated from protos/offramp/wire/v1/wire.proto by `make protos`."""
