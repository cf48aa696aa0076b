"""How an embedding space bends: one function per number, batched over layers and pools."""

from lab.geometry.agreement import cknna, mutual_knn, rsa
from lab.geometry.cca import pwcca, svcca
from lab.geometry.classes import Classes
from lab.geometry.collapse import cdnv, nc1, nc2_angles, nc2_frame, nc2_norms, nc3, nc4, nearest_centre
from lab.geometry.fourier import low_frequency, patch_low_frequency
from lab.geometry.gram import linear_cka, rbf_cka
from lab.geometry.isotropy import alignment, anisotropy, isoscore, uniformity
from lab.geometry.neighbours import antihubs, duplicates, hubness, levina_bickel, two_nn, two_nn_mle
from lab.geometry.panel import COLLAPSE, METRICS, measure
from lab.geometry.plane import simplex_plane
from lab.geometry.projection import align, coordinates, principal, project
from lab.geometry.redundancy import angular_distance, block_influence
from lab.geometry.relative import Stitched, relative_to, stitch
from lab.geometry.shape import angular, procrustes
from lab.geometry.similarity import SIMILARITIES, cka, compare
from lab.geometry.space import Space
from lab.geometry.spectrum import (
    effective_rank,
    matrix_entropy,
    participation_ratio,
    rankme,
    spectral_exponent,
    stable_rank,
)
from lab.geometry.ssim import ssim
from lab.geometry.trajectories import PerText, curvature, prompt_entropy
from lab.geometry.views import dime, infonce, lidar

__all__ = [
    "COLLAPSE", "METRICS", "SIMILARITIES", "Classes", "PerText", "Space", "Stitched", "align", "alignment",
    "angular", "angular_distance", "anisotropy", "antihubs", "block_influence", "cdnv", "cka", "cknna", "compare",
    "coordinates", "curvature", "dime", "duplicates", "effective_rank", "hubness", "infonce", "isoscore",
    "levina_bickel", "lidar", "linear_cka", "low_frequency", "matrix_entropy", "measure", "mutual_knn", "nc1",
    "nc2_angles", "nc2_frame", "nc2_norms", "nc3", "nc4", "nearest_centre", "participation_ratio",
    "patch_low_frequency", "principal", "procrustes", "project", "prompt_entropy", "pwcca", "rankme", "rbf_cka",
    "relative_to", "rsa", "simplex_plane", "spectral_exponent", "ssim", "stable_rank", "stitch", "svcca",
    "two_nn", "two_nn_mle", "uniformity",
]  # fmt: skip
