"""What the tensors of each kind of artifact mean, as the object that a server uses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from probes.artifact.manifest import Manifest
from probes.decisions.calibration import DecisionCalibration, DecisionSpec
from probes.difficulty.probe import Head
from probes.difficulty.strategies import ProbeSpec
from probes.inquiry.artifact import Inquiry
from probes.laws import HapoStatistics
from probes.selective.abstention import Abstention
from probes.selective.confidence import ConfidenceProbe
from probes.steering import SteeringVector
from probes.tensors import check_floats, check_single_precision, check_tensors

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Contents = (
    HapoStatistics
    | Head
    | SteeringVector
    | Inquiry
    | DecisionCalibration
    | Abstention
    | ConfidenceProbe
)


def read_contents(manifest: Manifest, tensors: Mapping[str, Tensor]) -> Contents:
    """Build the object that a manifest and its tensors describe.

    Raises:
        ValueError: A tensor does not fit the manifest, or its values cannot be used; names it.
    """
    if manifest.steering is not None:
        return SteeringVector.from_tensors(manifest.steering, tensors)
    if manifest.probe is not None:
        return _head(manifest.probe, tensors)
    if manifest.inquiry is not None:
        return Inquiry.from_tensors(manifest.inquiry, tensors)
    if manifest.decision is not None:
        return _decisions(manifest.decision, tensors)
    if manifest.abstention is not None:
        return Abstention.from_tensors(manifest.abstention, tensors)
    if manifest.confidence is not None:
        return ConfidenceProbe.from_tensors(manifest.confidence, tensors)
    return _hapo_statistics(tensors)


def _head(spec: ProbeSpec, tensors: Mapping[str, Tensor]) -> Head:
    head = Head.from_tensors(tensors, spec.features)
    if (spec.router is None) != (head.router_kept is None):
        raise ValueError("the manifest's `router` and the tensors `router_*` go together")
    return head


def _decisions(spec: DecisionSpec, tensors: Mapping[str, Tensor]) -> DecisionCalibration:
    parts = ("weight", "bias", "probabilities", "labels")
    known = {f"{number}.{part}" for number in range(len(spec.questions)) for part in parts}
    for name, tensor in tensors.items():
        if name not in known:
            raise ValueError(f"the tensor `{name[:100]}` is not expected")
        if tensor.dtype not in _INTEGERS or not name.endswith(".labels"):
            check_floats(name, tensor)
    return DecisionCalibration.from_tensors(spec, tensors)


def _hapo_statistics(tensors: Mapping[str, Tensor]) -> HapoStatistics:
    check_tensors(tensors, {"hapo": (len(HapoStatistics._fields),)})
    check_single_precision("hapo", tensors["hapo"])
    found = HapoStatistics(*tensors["hapo"].double().tolist())
    if not (found.std > 0 and found.scale_positive > 0 and found.scale_negative < 0):
        raise ValueError("the tensor `hapo` needs std > 0, scale_positive > 0, scale_negative < 0")
    return found
