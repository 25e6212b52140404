"""The layouts of datasets that are read, by the name that manifests use."""

from __future__ import annotations

from PartialSegTraining.datasets.contract import Layout
from PartialSegTraining.datasets.decathlon import DECATHLON
from PartialSegTraining.datasets.dicomseg import DICOM_SEG
from PartialSegTraining.datasets.maskfiles import MASK_FILES
from PartialSegTraining.datasets.nnunet import NNUNET
from PartialSegTraining.datasets.pairs import PAIRS
from PartialSegTraining.datasets.segnrrd import SEG_NRRD

LAYOUTS: dict[str, Layout] = {
    "decathlon": DECATHLON,
    "nnunet": NNUNET,
    "mask-files": MASK_FILES,
    "seg-nrrd": SEG_NRRD,
    "dicom-seg": DICOM_SEG,
    "pairs": PAIRS,
}
