"""The table of families. Imports neither torch nor Ray."""

from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.families.object_detection.family import OBJECT_DETECTION
from deployments.families.speech_to_text.family import SPEECH_TO_TEXT
from deployments.families.text_embedding.family import TEXT_EMBEDDING
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.replica.family import Family

FAMILIES: tuple[Family, ...] = (IMAGE_CLASSIFICATION, TEXT_GENERATION, OBJECT_DETECTION, TEXT_EMBEDDING, SPEECH_TO_TEXT)
