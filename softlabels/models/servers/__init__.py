"""Teachers behind HTTP: servers that return the log-probabilities of a prompt's tokens."""

from softlabels.models.servers.client import Client
from softlabels.models.servers.network import ServerNetwork
from softlabels.models.servers.probe import check_server
from softlabels.models.servers.protocols import PROTOCOLS, Position, Protocol

__all__ = ["PROTOCOLS", "Client", "Position", "Protocol", "ServerNetwork", "check_server"]
