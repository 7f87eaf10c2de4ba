"""One connection to an OPC UA server: secure channel, session, and the requests the connector makes over it.

Connects once and never by itself again; whoever owns it decides that (asyncua's supervisor is not used, it rebuilds
subscriptions without republishing). Never falls back to a weaker policy. May not know readings nor Kafka.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from asyncua import Client, ua
from asyncua.common.utils import Buffer, ServiceError
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties, InvalidSignature
from asyncua.ua.ua_binary import struct_from_binary

from connectors import opcua_binary
from connectors.opcua_binary import History, MalformedAnswer, Value
from connectors.opcua_certificates import OwnCertificate, Refused, fingerprint, load_certificate, load_key, pinned
from connectors.opcua_memory import Resumable
from runtime.config import Opcua

log = logging.getLogger(__name__)

Item = TypeVar("Item")

TIMEOUT_S = 4.0
SESSION_TIMEOUT_MS = 600_000
CHUNK = 500  # nodes per request; servers that allow less say so

#: Everything that a server, a network or a wrong secret can do to us. None of it is a bug here, so it is retried.
TROUBLE = (OSError, TimeoutError, ua.UaError, ServiceError, MalformedAnswer, Refused, InvalidSignature)


class Session:
    """An activated session. `resumed`: the server still held the one that was to be taken over."""

    def __init__(self, client: Client, config: Opcua, resumed: bool) -> None:
        self.client = client
        self.config = config
        self.resumed = resumed
        self.namespaces: list[str] = []
        self.read_max = self.monitor_max = self.browse_max = CHUNK

    @classmethod
    async def open(cls, config: Opcua, resumable: Resumable | None = None) -> "Session":
        """Connect, take over `resumable` where the server still has it, else make a session. Raises TROUBLE."""
        client = Client(config.address, timeout=TIMEOUT_S)
        client.name = client.description = f"process-twin {config.id}"
        client.session_timeout = SESSION_TIMEOUT_MS
        await _secure(client, config)
        _identify(client, config)
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            resumed = resumable is not None and await _take_over(client, config, resumable)
            if not resumed:
                await client.create_session()
                _check_password_is_encrypted(client, config)
                await client._activate_with_credentials()
            client._start_renew_loop()
            session = cls(client, config, resumed)
            await session._learn()
            return session
        except BaseException:
            await _drop(client)
            raise

    @property
    def credentials(self) -> tuple[str, str]:
        """Token and nonce (hex) with which another process can take this session over."""
        return self.client.uaclient.session.authentication_token.to_string(), (self.client._server_nonce or b"").hex()

    async def request(self, request: Any, timeout_s: float | None = None) -> Buffer:
        """The body of the server's answer. `timeout_s` 0: no limit. Raises TROUBLE."""
        answer: Buffer = await self.client.uaclient._send_request(request, timeout_s)
        return answer

    async def call(self, request: Any, answer: type[Any]) -> Any:
        """The decoded answer to a request. Raises TROUBLE."""
        decoded = struct_from_binary(answer, await self.request(request))
        decoded.ResponseHeader.ServiceResult.check()
        return decoded

    async def read(self, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds = ua.AttributeIds.Value) -> list[Value]:
        """An attribute of many nodes as numbers or text; `handle` is the position in `nodes`."""
        values: list[Value] = []
        for chunk in chunks(nodes, self.read_max):
            request = ua.ReadRequest()
            request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
            request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=attribute) for node in chunk]
            start = len(values)
            values += [v._replace(handle=start + v.handle) for v in opcua_binary.read(await self.request(request))]
        if len(values) != len(nodes):
            raise MalformedAnswer(f"Read answer: {len(values)} values for {len(nodes)} nodes")
        return values

    async def read_raw(self, nodes: Sequence[ua.NodeId]) -> list[Any]:
        """Values of many nodes as asyncua decodes them, None where the server gave none."""
        values = []
        for chunk in chunks(nodes, self.read_max):
            for found in await self.client.uaclient.read_attributes(list(chunk), ua.AttributeIds.Value):
                good = found.Value is not None and (found.StatusCode is None or found.StatusCode.is_good())
                values.append(found.Value.Value if good else None)
        return values

    async def history(self, node: ua.NodeId, start: datetime, end: datetime, more: bytes) -> History:
        """One page of a node's raw history."""
        request = ua.HistoryReadRequest()
        request.Parameters.HistoryReadDetails = ua.ReadRawModifiedDetails(
            IsReadModified=False, StartTime=start, EndTime=end, NumValuesPerNode=0, ReturnBounds=True
        )
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        request.Parameters.NodesToRead = [ua.HistoryReadValueId(NodeId=node, ContinuationPoint=more or None)]
        found = opcua_binary.history(await self.request(request))
        if len(found) != 1:
            raise MalformedAnswer(f"HistoryRead answer: {len(found)} results for 1 node")
        return found[0]

    async def alive(self) -> None:
        """A small request: keeps the session from timing out and raises TROUBLE where the server is gone."""
        await self.read([ua.NodeId(ua.ObjectIds.Server_ServerStatus_State)])

    async def close(self) -> None:
        """End the session and its subscriptions on the server."""
        try:
            await asyncio.wait_for(self.client.disconnect(), TIMEOUT_S)
        except TROUBLE as error:
            log.info("closing the session: %s", describe(error))
            await _drop(self.client)

    async def drop(self) -> None:
        """Cut the connection; the server keeps the session and its queues until it times out."""
        await _drop(self.client)

    async def _learn(self) -> None:
        """Namespaces and operation limits."""
        self.namespaces = [str(uri) for uri in await self.client.get_namespace_array()]
        limits = ua.ObjectIds
        names = ("MaxNodesPerRead", "MaxMonitoredItemsPerCall", "MaxNodesPerBrowse")
        nodes = [ua.NodeId(getattr(limits, f"Server_ServerCapabilities_OperationLimits_{name}")) for name in names]
        found = [int(v.value) if v.value > 0 else CHUNK for v in await self.read(nodes)]  # NaN and 0: no limit
        self.read_max, self.monitor_max, self.browse_max = (min(n, CHUNK) for n in found)


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Pieces of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


def describe(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    name = type(error).__name__
    return str(error) if isinstance(error, Refused) else f"{name}: {error}".rstrip(": ").splitlines()[0]


async def server_certificate(config: Opcua) -> bytes:
    """The certificate (DER) the server shows for the configured policy and mode. Raises TROUBLE."""
    for endpoint in await _endpoints(config):
        if endpoint.ServerCertificate and _fits(endpoint, config):
            return first_certificate(endpoint.ServerCertificate)
    raise Refused(f"{config.address} offers no endpoint with {config.security}, {config.mode}")


def first_certificate(der: bytes) -> bytes:
    """The server's own certificate where it sent its whole chain."""
    length = int.from_bytes(der[2:4], "big") + 4 if der[1:2] == b"\x82" else len(der)
    return der[:length]


async def _endpoints(config: Opcua) -> list[ua.EndpointDescription]:
    found: list[ua.EndpointDescription] = await Client(
        config.address, timeout=TIMEOUT_S
    ).connect_and_get_server_endpoints()
    return found


def _fits(endpoint: ua.EndpointDescription, config: Opcua) -> bool:
    policy = getattr(security_policies, f"SecurityPolicy{config.security}")
    wanted = getattr(ua.MessageSecurityMode, "None_" if config.mode == "None" else config.mode)
    return bool(endpoint.SecurityPolicyUri == policy.URI and endpoint.SecurityMode == wanted)


async def _secure(client: Client, config: Opcua) -> None:
    """Set policy, own certificate and the pinned one. Raises Refused where the server does not fit them."""
    if config.security == "None":
        return
    pin = pinned(config)
    shown = await _check_shown(config, pin)
    own = OwnCertificate(config.certificate_dir)
    client.application_uri = own.application_uri
    await client.set_security(
        getattr(security_policies, f"SecurityPolicy{config.security}"),
        CertProperties(own.certificate, "der"),
        CertProperties(own.key, "pem"),
        server_certificate=CertProperties(shown, "der"),
        mode=getattr(ua.MessageSecurityMode, config.mode),
    )


async def _check_shown(config: Opcua, pin: bytes) -> bytes:
    """The pinned certificate, after asking the server which it has: a better message than a failed handshake.

    What the server says here is not protected and decides nothing but the message: the channel is encrypted for the
    pinned key and the session's signature is checked against it.
    """
    shown = await server_certificate(config)
    if shown != pin:
        raise Refused(
            f"{config.address} shows the certificate {fingerprint(shown)}, pinned is {fingerprint(pin)}; "
            f"if the server got a new one, look at it and pin it with `twin browse --trust {config.address}`"
        )
    return pin


def _identify(client: Client, config: Opcua) -> None:
    if config.username is not None:
        client.set_user(config.username)
        client.set_password(config.password or "")
    if config.user_certificate_file is not None and config.user_key_file is not None:
        client.user_certificate = load_certificate(config.user_certificate_file)
        client.user_private_key = load_key(config.user_key_file)


def _check_password_is_encrypted(client: Client, config: Opcua) -> None:
    if config.username is None or config.mode == "SignAndEncrypt":
        return
    token = client.server_policy(ua.UserTokenType.UserName)
    if token.SecurityPolicyUri == security_policies.SecurityPolicyNone.URI:
        raise Refused(f'{config.address} wants the password in clear text; use mode = "SignAndEncrypt"')


async def _take_over(client: Client, config: Opcua, resumable: Resumable) -> bool:
    """Activate an earlier session on this channel (OPC 10000-4 §6.7). False: the server no longer has it."""
    session = client.uaclient.session
    client._policy_ids = next((e.UserIdentityTokens for e in await client.get_endpoints() if _fits(e, config)), [])
    client._server_nonce = bytes.fromhex(resumable.nonce) or None
    session.restore_authentication_token(ua.NodeId.from_string(resumable.token))
    try:
        _check_password_is_encrypted(client, config)
        await client._activate_with_credentials()
    except (ua.UaStatusCodeError, ServiceError) as error:
        log.info("the server no longer has our session (%s); making a new one", describe(error))
        session.reset_authentication_token()
        client._server_nonce = None
        return False
    return True


async def _drop(client: Client) -> None:
    quiet: Awaitable[None] = client._teardown_transport_only()
    try:
        await quiet
    except TROUBLE as error:
        log.debug("dropping the connection: %s", describe(error))
