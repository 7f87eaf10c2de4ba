"""Which variables to read: the configured ones, those of the tag file, or what discovery finds on the server.

Namespaces are resolved by URI on every connection, also for nodes configured with an index: their URI is noted on the
first one, so a server that renumbers its namespaces cannot give us another variable's values.
"""

import logging
import re
import tomllib
from collections.abc import Iterable, Sequence

from asyncua import ua
from pydantic import ValidationError

from connectors.opcua_binary import writable
from connectors.opcua_session import Session, chunks
from connectors.opcua_values import Item, queue_size, tag_name
from runtime.config import ConfigurationError, Opcua, OpcuaNode, Plant

log = logging.getLogger(__name__)

#: A namespace index no server uses: a node in a namespace the server does not have (yet) reads as unknown.
_NOWHERE = 0xFFFF
_NODE = re.compile(r"(?:ns=(?P<index>\d+);|nsu=(?P<uri>[^;]+);)?(?P<id>[isgb]=.+)", re.DOTALL)
_HIERARCHICAL = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
_PROPERTY = ua.NodeId(ua.ObjectIds.HasProperty)
_SERVER_OBJECT = ua.NodeId(ua.ObjectIds.Server)
_CLASSES = int(ua.NodeClass.Object) | int(ua.NodeClass.Variable)


class Nodes:
    """The nodes of one connector. Raises ConfigurationError where the tag file cannot be used."""

    def __init__(self, plant: Plant, config: Opcua) -> None:
        self._plant = plant
        self._config = config
        self._uris: dict[int, str] = {}  # as on the first connection
        self._configured = (*config.nodes, *_tags_file(config))
        names = [(node.asset, node.tag) for node in self._configured]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ConfigurationError([f"opcua {config.id}: {a}/{t} is given by more than one node" for a, t in twice])

    @property
    def assets(self) -> list[str]:
        """Assets of the configured nodes; none where nodes are to be discovered."""
        return [node.asset for node in self._configured]

    async def items(self, session: Session) -> list[Item]:
        """What to read from this server now; empty where discovery finds nothing. Raises TROUBLE."""
        for index, uri in enumerate(session.namespaces):
            self._uris.setdefault(index, uri)
        given = [(self._node_id(node.node, session.namespaces), node) for node in self._configured]
        # A server shows a node that was made again behind the others: in an order of ours they stay the same items.
        given = given or sorted(await discover(session, self._config.discover), key=lambda found: found[1].node)
        ids, nodes = [node_id for node_id, _ in given], [node for _, node in given]
        wanted = [i for i, node in enumerate(nodes) if self._unit(node) is None]
        found = dict(zip(wanted, await units(session, [ids[i] for i in wanted]), strict=True))
        return [
            self._item(node, node_id, found.get(i, ""), session.namespaces)
            for i, (node, node_id) in enumerate(zip(nodes, ids, strict=True))
        ]

    def _unit(self, node: OpcuaNode) -> str | None:
        return node.unit if node.unit is not None else self._plant.tag(node.asset, node.tag).unit

    def _item(self, node: OpcuaNode, node_id: ua.NodeId, unit: str, namespaces: Sequence[str]) -> Item:
        settings = self._plant.tag(node.asset, node.tag)
        interval_s = node.interval_s or settings.interval_s or self._config.publishing_s
        return Item(
            node=node.node if node_id.NamespaceIndex == _NOWHERE else by_uri(node_id, namespaces),
            node_id=node_id,
            asset=node.asset,
            tag=node.tag,
            unit=unit if (own := self._unit(node)) is None else own,
            cyclic=node.read == "cyclic",
            interval_s=interval_s,
            queue_size=self._config.queue_size or queue_size(self._config.publishing_s, interval_s),
            deadband=settings.deadband,
            historised=node.historised,
        )

    def _node_id(self, text: str, namespaces: Sequence[str]) -> ua.NodeId:
        parts = _NODE.fullmatch(text)
        if parts is None:
            raise ConfigurationError([f"opcua {self._config.id}: node {text!r}: allowed is nsu=URI;s=… or ns=2;s=…"])
        index = int(parts["index"] or 0)
        uri = parts["uri"] or self._uris.get(index)
        if uri not in namespaces:
            log.warning("%s: the server has no namespace %s", text, uri or index)
            return ua.NodeId.from_string(f"ns={_NOWHERE};{parts['id']}")
        return ua.NodeId.from_string(f"ns={namespaces.index(uri)};{parts['id']}")


def by_uri(node_id: ua.NodeId, namespaces: Sequence[str]) -> str:
    """The node's text with its namespace by URI, which does not change when the server renumbers."""
    identifier = str(ua.NodeId(node_id.Identifier, 0, node_id.NodeIdType).to_string())
    if not node_id.NamespaceIndex:
        return writable(identifier)
    return writable(f"nsu={namespaces[node_id.NamespaceIndex]};{identifier}")


async def discover(session: Session, pattern: str) -> list[tuple[ua.NodeId, OpcuaNode]]:
    """Every variable whose string id matches the pattern: the id as the server has it, and as a node of the
    configuration. Raises TROUBLE."""
    found: dict[tuple[str, str], tuple[ua.NodeId, OpcuaNode]] = {}
    expression = re.compile(pattern)
    for node_id in await variables(session):
        name = node_id.Identifier
        match = expression.fullmatch(writable(name)) if isinstance(name, str) else None
        if match is None:
            continue
        groups = match.groupdict()
        node = OpcuaNode(
            node=by_uri(node_id, session.namespaces),
            asset=groups["asset"],
            tag=tag_name(groups["tag"], groups.get("role")),
        )
        _, first = found.setdefault((node.asset, node.tag), (node_id, node))
        if first is not node:
            log.warning("%s and %s are both %s/%s; the first is used", first.node, node.node, node.asset, node.tag)
    return list(found.values())


async def variables(session: Session) -> list[ua.NodeId]:
    """Every variable below the Objects folder, without properties and the server's own object. Raises TROUBLE."""
    found: list[ua.NodeId] = []
    seen = {_SERVER_OBJECT}
    level = [ua.NodeId(ua.ObjectIds.ObjectsFolder)]
    while level:
        below: list[ua.NodeId] = []
        for reference in await _children(session, level):
            node_id = reference.NodeId
            if reference.ReferenceTypeId == _PROPERTY or node_id in seen:
                continue
            seen.add(node_id)
            below.append(node_id)
            if reference.NodeClass == ua.NodeClass.Variable:
                found.append(node_id)
        level = below
    return found


async def units(session: Session, nodes: Sequence[ua.NodeId]) -> list[str]:
    """Unit of every node as the server names it (property EngineeringUnits, its display name); else empty."""
    properties: list[ua.NodeId | None] = []
    for chunk in chunks(nodes, session.browse_max):
        paths = [ua.BrowsePath(StartingNode=node, RelativePath=_UNITS) for node in chunk]
        for result in await session.client.uaclient.translate_browsepaths_to_nodeids(paths):
            good = result.StatusCode.is_good() and result.Targets
            properties.append(_plain(result.Targets[0].TargetId) if good else None)
    known = [node for node in properties if node is not None]
    found = dict(zip(known, await session.read_raw(known), strict=True))
    return [_unit_text(found.get(node)) for node in properties]


def _unit_text(information: object) -> str:
    if not isinstance(information, ua.EUInformation):
        return ""
    return writable(str(information.DisplayName.Text or "")).strip()


async def _children(session: Session, nodes: Iterable[ua.NodeId]) -> list[ua.ReferenceDescription]:
    references: list[ua.ReferenceDescription] = []
    for chunk in chunks(list(nodes), session.browse_max):
        parameters = ua.BrowseParameters()
        parameters.NodesToBrowse = [
            ua.BrowseDescription(
                NodeId=node,
                BrowseDirection=ua.BrowseDirection.Forward,
                ReferenceTypeId=_HIERARCHICAL,
                IncludeSubtypes=True,
                NodeClassMask=_CLASSES,
                ResultMask=ua.BrowseResultMask.All,
            )
            for node in chunk
        ]
        results = await session.client.uaclient.browse(parameters)
        while results:
            more = []
            for result in results:
                references += result.References or []
                if result.ContinuationPoint:
                    more.append(result.ContinuationPoint)
            results = await _browse_next(session, more) if more else []
    return references


async def _browse_next(session: Session, points: list[bytes]) -> list[ua.BrowseResult]:
    parameters = ua.BrowseNextParameters(ReleaseContinuationPoints=False, ContinuationPoints=points)
    found: list[ua.BrowseResult] = await session.client.uaclient.browse_next(parameters)
    return found


def _plain(node_id: ua.NodeId) -> ua.NodeId:
    return ua.NodeId(node_id.Identifier, node_id.NamespaceIndex, node_id.NodeIdType)


_UNITS = ua.RelativePath(
    Elements=[
        ua.RelativePathElement(
            ReferenceTypeId=_PROPERTY,
            IsInverse=False,
            IncludeSubtypes=True,
            TargetName=ua.QualifiedName("EngineeringUnits", 0),
        )
    ]
)


def _tags_file(config: Opcua) -> tuple[OpcuaNode, ...]:
    """Nodes of the tag file that `twin browse` wrote and a person may have edited. Raises ConfigurationError."""
    if config.tags_file is None:
        return ()
    path = config.tags_file.expanduser()
    try:
        rows = tomllib.loads(path.read_text("utf-8")).get("nodes", [])
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: is not valid TOML ({error})"]) from error
    problems, nodes = [], []
    for number, row in enumerate(rows):
        try:
            nodes.append(OpcuaNode.model_validate(row))
        except ValidationError as error:
            problems += [
                f"{path}: nodes.{number}.{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}"
                for e in error.errors(include_url=False)
            ]
    if problems or not nodes:
        raise ConfigurationError(problems or [f"{path}: has no nodes"])
    return tuple(nodes)
