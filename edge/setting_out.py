"""From the settings of ``ravan-edge run`` to those of the client, with what there is on this machine."""

import os
from pathlib import Path

import onnxruntime

import ravan
from edge.client import ClientSettings
from edge.job import DataOptions, WorkerSettings
from edge.options import DeviceOptions, Equipment
from edge.runtimes import Runtimes
from edge.settings import AUTO, EdgeSettings
from ravan.cli.output import Format
from ravan.errors import SettingsError
from ravan.rpc.plan import SPREADS, WIRE_FORMATS
from ravan.runtime.dataset import find_dataset


def client_settings(settings: EdgeSettings) -> ClientSettings:
    """What the client needs to know.

    Raises:
        SettingsError: two devices would share a name, or there is no such dataset.
        EnvironmentProblem: onnxruntime-training is wanted and not there.
    """
    if settings.dataset:
        find_dataset(settings.dataset)
    runtimes = Runtimes.find(settings.runtime, settings.ort_training_python)
    worker = WorkerSettings(
        home=settings.home,
        threads=settings.threads,
        spinning=settings.spinning,
        mapped=settings.mapped_weights,
        cache_mb=settings.cache_mb,
        disk_mb=settings.disk_mb,
        wanted=runtimes.wanted,
        ort_python=runtimes.ort_python,
        priority=settings.priority,
        memory_mb=settings.memory_mb,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    devices = tuple(_device(settings, name, path) for name, path in _names(settings).items())
    return ClientSettings(
        server=settings.server,
        insecure=settings.insecure,
        worker=worker,
        equipment=equipment(runtimes),
        devices=devices,
        rules=settings.rules(settings.home.absolute()),
        bandwidth=settings.rate,
        update_hours=settings.update_hours,
        dry_run=settings.dry_run,
        as_json=settings.format is Format.JSON,
    )


def equipment(runtimes: Runtimes) -> Equipment:
    """What there is on this machine."""
    return Equipment(
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        onnxruntime=onnxruntime.__version__,
        software=f"ravan-fl {ravan.__version__}, onnxruntime {onnxruntime.__version__}{runtimes.beside}",
        wire_formats=tuple(WIRE_FORMATS.values()),
        head_spreads=tuple(SPREADS.values()),
        runtimes=runtimes,
    )


def _names(settings: EdgeSettings) -> dict[str, Path]:
    """One device for each data file, named by the setting or after the file.

    Raises:
        SettingsError: two devices would share a name.
    """
    names = [settings.name or path.stem for path in settings.data]
    if settings.name and len(names) > 1:
        names = [f"{settings.name}-{path.stem}" for path in settings.data]
    if len(set(names)) < len(names):
        raise SettingsError("Two data files have the same name, which names the device: rename one.")
    return dict(zip(names, settings.data, strict=True))


def _device(settings: EdgeSettings, name: str, path: Path) -> DeviceOptions:
    data = DataOptions(
        data=path,
        dataset=settings.dataset,
        skip_bad=settings.skip_bad,
        held_out=settings.held_out,
        seed=settings.seed,
        micro_batch=settings.micro_batch,
    )
    return DeviceOptions(
        name,
        data,
        None if settings.heads == AUTO else float(settings.heads),
        settings.until_finished,
        settings.key_days,
    )
