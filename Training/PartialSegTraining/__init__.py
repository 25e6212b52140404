"""PartialSegTraining: cases in, a model bundle out. Imports PartialSegLib only."""
