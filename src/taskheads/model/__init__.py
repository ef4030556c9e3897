"""A backbone, its heads and what is known of them: asked, judged, saved, loaded."""
