"""What the layers leave for each other in the ASGI scope of a request. Other processes' listeners know these names too."""

from __future__ import annotations

from typing import Final

REQUEST_ID_KEY: Final = "vitalgrid.request_id"
CALLER_KEY: Final = "vitalgrid.caller"
BELIEVED_KEY: Final = "vitalgrid.believed"  # what the server, if it put that there, is to be called with once a caller is known
GONE_KEY: Final = "vitalgrid.gone"  # by the server, if it put that there: tells whether who asked has left
ACCESS_KEY: Final = "vitalgrid.access"
END_TURN_KEY: Final = "vitalgrid.end_turn"  # what ends a request's turn before its answer begins
SEND_KEY: Final = "vitalgrid.send"  # the server's own send, past all layers
