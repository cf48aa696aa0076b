"""Small models trained here: language models and classifiers, one recipe each, readers, and embedders.

language_model  norms, biases and normalizers are the question: a Recipe in, a Run out
classify        losses, targets and linear layers are: a ClassifierRecipe in, with collapse watched on the way
free_features   the same without a network, where theory has the answer
projected       a contrastive encoder of planted features, under a projection head
denoiser        a small U-Net that takes noise off images; noising is the process, UNet the net
*_reader        readers whose pooling is the question: of relations, graphs, views, bags, sampled bags, sets; likewise
                patch_classifier, hourglass, layer_head, sparse_retriever
map_classifier  a small convolutional network: how its maps shrink (SHRINKING) and how they are read; regions of one map
                against crops (region_maps); what a pooled map has kept (kept, unpooled)
supernets       where it shrinks: words that share weights, in one net, in several, or alone (placements)
base            a tiny decoder, trained as a language model and saved as transformers saves
DESIGNS         pooling x attention: which mask, which tokens, which layers, which head
embedder        a design on a base: a SentenceTransformer
contrastive     trains it on pairs, by a loss of LOSSES
                SimCSE (Gao et al., 2021): pairs whose positive is the query itself, on a base with dropout, which
                alone then tells the two sides apart
smae            masked pre-training on a list of layers and widths, before the loss "starbucks"
soup            the mean of several trainings of one base
architectures   the same recipe on tiny decoders of several architectures
frozen          its embeddings and lower blocks held as they are meanwhile
trials          designs x seeds on all cores, each run kept
export          a trained one saved, and tried in a fresh Python; loads_alone: without this package?
instructed      a toy decoder of pictures and words, told what to do, beside a dual encoder
layer_weights   what a trained one reads of each layer
image_search    descriptors of images to search by, learnt by ArcFace, by one of SEARCH_POOLS
metaformer      a classifier of images whose token mixer is one of MIXERS, with its cost
"""

from lab.training.architectures import architectures
from lab.training.auc import AUCMargin
from lab.training.bags import BAG_POOLS, bag_reader
from lab.training.base import base
from lab.training.classifier import CLASSIFIER_LOSSES, ClassifierRecipe, Mixed, mixed
from lab.training.classify import Classified, classify
from lab.training.contrastive import Tuned, contrastive
from lab.training.corpus import Corpus, corpus
from lab.training.denoiser import Denoiser, denoiser
from lab.training.designs import DESIGNS, Design
from lab.training.diffusion import SCHEDULES, Noising, noising
from lab.training.embedder import embedder
from lab.training.export import export, loads_alone
from lab.training.free_features import FreeFeatures, expected_lengths, free_features
from lab.training.freezing import Frozen, frozen
from lab.training.graphs import READOUTS, graph_reader
from lab.training.hourglass import HourglassShape, agreement, hourglass
from lab.training.image_search import SEARCH_POOLS, image_search
from lab.training.instructions import INSTRUCTIONS, Instruction
from lab.training.language_model import Run, language_model
from lab.training.layer_head import layer_head
from lab.training.layer_weights import layer_weights
from lab.training.losses import LOSSES
from lab.training.map_classifier import SHRINKING, MapNet, map_classifier
from lab.training.metaformer import MIXERS, metaformer
from lab.training.modalities import Instructed, instructed
from lab.training.multiply_adds import multiply_adds
from lab.training.patches import patch_classifier
from lab.training.placements import PlacedNet, Supernets, placements, supernets
from lab.training.projection import HEADS, Headed, projected
from lab.training.recipe import STUDY, Recipe
from lab.training.regions import reach, region_maps, rings
from lab.training.relations import relation_reader
from lab.training.restoring import enlarged, fitted_ada, kept, linear_decoder, unpooled, variance_lost
from lab.training.retrieval import max_retrieval
from lab.training.sampled_bags import SAMPLED_POOLS, sampled_reader
from lab.training.several import several, together
from lab.training.smae import smae
from lab.training.soup import soup
from lab.training.sparse import Words, sparse_retriever
from lab.training.sums import SET_POOLS, set_reader
from lab.training.trials import trials
from lab.training.unet import UNet
from lab.training.views import VIEW_POOLS, view_reader
from lab.training.vitals import vitals

__all__ = [
    "BAG_POOLS", "CLASSIFIER_LOSSES", "DESIGNS", "HEADS", "INSTRUCTIONS", "LOSSES", "MIXERS", "READOUTS",
    "SAMPLED_POOLS", "SCHEDULES", "SEARCH_POOLS", "SET_POOLS", "SHRINKING", "STUDY", "VIEW_POOLS", "AUCMargin",
    "Classified", "ClassifierRecipe", "Corpus", "Denoiser", "Design", "FreeFeatures", "Frozen", "Headed",
    "HourglassShape", "Instructed", "Instruction", "MapNet", "Mixed", "Noising", "PlacedNet", "Recipe", "Run",
    "Supernets", "Tuned", "UNet", "Words", "agreement", "architectures", "bag_reader", "base", "classify",
    "contrastive", "corpus", "denoiser", "embedder", "enlarged", "expected_lengths", "export", "fitted_ada",
    "free_features", "frozen", "graph_reader", "hourglass", "image_search", "instructed", "kept", "language_model",
    "layer_head", "layer_weights", "linear_decoder", "loads_alone", "map_classifier", "max_retrieval", "metaformer",
    "mixed", "multiply_adds", "noising", "patch_classifier", "placements", "projected", "reach", "region_maps",
    "relation_reader", "rings", "sampled_reader", "set_reader", "several", "smae", "soup", "sparse_retriever",
    "supernets", "together", "trials", "unpooled", "variance_lost", "view_reader", "vitals",
]  # fmt: skip
