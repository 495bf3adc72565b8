"""The whole way from two models to a report, stage by stage, in a folder that can be resumed."""
