"""Records made readable: tables, files, and what a person sees while a run goes on. Nothing here measures."""
