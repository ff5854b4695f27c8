"""The bill of materials of a binary (CycloneDX 1.6): the packages that are in it, and the hash of every library."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ravan import __version__
from release.debian import Package
from release.parts import OURS, Owned, Part


def bill_of_materials(owned: Sequence[Owned], internal: Path, time: int) -> str:
    """JSON that names what is in a binary: the same for the same parts.

    Args:
        owned: the packages.
        internal: the folder of the binary that the parts' names are below.
        time: of the bill, Unix time.
    """
    components = [component(each, internal) for each in owned if each.package.name != OURS]
    bom = Bom(components=components)
    bom.metadata.component = Component(
        name="ravan-edge", version=__version__, type=ComponentType.APPLICATION, bom_ref="ravan-edge"
    )
    bom.metadata.timestamp = datetime.fromtimestamp(time, UTC)
    bom.register_dependency(bom.metadata.component, components)
    named = "\n".join([str(each.purl) for each in sorted(components)] + [h.content for h in hashes_of(components)])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, named)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def hashes_of(components: Sequence[Component]) -> Iterator[HashType]:
    """Of all libraries."""
    for each in sorted(components):
        for part in sorted(each.components):
            yield from part.hashes


def component(owned: Owned, internal: Path) -> Component:
    """A package with its libraries."""
    package = owned.package
    purl, licences = package_url(package), []
    if isinstance(package, Distribution):
        licences = [found] if (found := licence(package)) else []
    files = [library(part, internal, f"{purl}#{part.name}") for part in owned.libraries]
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        licenses=licences,
        components=files,
    )


def package_url(package: Distribution | Package) -> PackageURL:
    """Its name among all packages of the world."""
    if isinstance(package, Package):
        return PackageURL("deb", "debian", package.name, package.version, {"arch": package.architecture})
    return PackageURL("pypi", name=package.name.lower().replace("_", "-"), version=package.version)


def licence(distribution: Distribution) -> License | None:
    """What a distribution says of its terms: an SPDX expression, or a name."""
    for field in ("License-Expression", "License"):
        if field in distribution.metadata and (lines := distribution.metadata[field].strip().splitlines()):
            return LicenseFactory().make_from_string(lines[0])
    return None


def library(part: Part, internal: Path, reference: str) -> Component:
    """A shared library as it is shipped."""
    digest = hashlib.sha256((internal / part.name).read_bytes()).hexdigest()
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
    return Component(name=part.name, type=ComponentType.FILE, bom_ref=reference, hashes=hashes)
