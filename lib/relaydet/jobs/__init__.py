"""One file per job, one public function each: config in, files in the store out."""
