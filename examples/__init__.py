"""Programs that use refstore as an application would."""
