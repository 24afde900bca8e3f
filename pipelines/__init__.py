"""Everything that knows Ray: the batch job, its sources and sinks, and the command line."""
