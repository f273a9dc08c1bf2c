"""What to say next: the brain seam and the dialog state machine. Pure throughout.

brain         the seam: what happened comes in, what to do next comes out
dialog        plays a dialog for one call;  position  where the call stands;  answer  a hook's wishes
script        a dialog as values
dialog_file   YAML to script;  document  YAML with its lines;  survey  is the whole sound?
template      Go's templates, a subset;  functions  what they compute;  duration  "1m30s"
phrase        what can be said;  matcher  what was said;  grammar  what the recogniser is told
grounds       phrases read out of voicetyped's conditions;  keypad  what can be pressed
"""
