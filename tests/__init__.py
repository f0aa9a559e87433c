"""The tests of all packages."""

import offramp.serving  # noqa: F401 - gRPC reads what this sets when it is first imported
