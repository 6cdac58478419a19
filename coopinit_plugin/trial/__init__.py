"""Is it worth it here? The measures, the watch on a run, and the pilot, which compares starts on the user's code."""
