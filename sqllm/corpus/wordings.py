"""How people ask: of each topic the wordings that are trained, and those that are kept out of training."""

# fmt: off
ASKED = {
    # of what it is, and what to do
    "explain": (
        (
            "what is wrong with it?", "what's wrong with this recording?", "describe the quality.", "why this score?",
            "what do you hear?", "explain the score.", "how does it sound?", "what faults does the recording have?",
            "describe what a listener would notice.", "tell me about the quality.", "what is the problem?",
            "summarise the sound quality.", "what do you make of it?", "what bothers a listener here?",
            "is it any good?", "what happened to this recording?", "can you describe the sound?",
            "how good is the sound?", "what spoils it?", "what did you notice?", "how did it get this score?",
            "why is the rating like that?", "what is not right here?", "explain.",
        ),
        ("what is the matter with this call?", "give me a short report on the sound.", "how come it got this score?"),
    ),
    "when": (
        (
            "when does it drop out?", "when are the dropouts?", "where does the speech cut out?", "where are the gaps?",
            "at what times does it break up?", "list the dropouts.", "when is the voice gone?", "when are there gaps?",
            "where is audio missing?", "give me the times of the cut-outs.", "at which times does it cut out?",
            "show me the dropouts.", "which moments are missing?", "when is it interrupted?",
            "at what moments is there silence instead of speech?",
        ),
        ("at which moments do we lose the voice?", "when does the audio disappear?"),
    ),
    "when_noise": (
        (
            "when is the noise?", "at what time is there noise?", "where is the noise?", "in which part is it noisy?",
            "from when on is there noise?", "is the noise there all the time?",
        ),
        ("from when to when do you hear noise?",),
    ),
    "category": (
        (
            "how is the {title}?", "rate the {title} in a word.", "what about the {title}?", "{title}?",
            "how would you rate the {title}?", "is the {title} good?", "how good is the {title}?",
            "what do you say to the {title}?", "the {title} in a word?", "what is the {title} like?",
        ),
        ("which word fits the {title}?", "how would you call the {title}?"),
    ),
    "worst": (
        (
            "which dimension is worst?", "what is the weakest point?", "what should be fixed first?",
            "which score is the lowest?", "what is the main weakness?", "which aspect is the worst?",
            "where is it weakest?", "what drags the score down?", "which of the scores is the lowest?",
            "what costs it the most?", "what is its biggest flaw?",
        ),
        ("where does it fall short the most?", "what hurts the quality most?"),
    ),
    "fix": (
        (
            "what should I do?", "how can I improve it?", "what can be done about it?", "how do I fix it?",
            "any advice?", "how would it sound better?", "how can I avoid that?", "what would help?",
            "how do I get a better recording?", "what can I change?", "what do you recommend?", "how to repair it?",
            "what would you do about it?",
        ),
        ("what would make the next recording better?",),
    ),
    "transcribe": (
        (
            "is it usable for transcription?", "can it be transcribed?", "is it fit for speech recognition?",
            "will speech recognition work on it?", "can I send it to a transcriber?",
            "is it good enough for a transcript?", "can a machine transcribe it?", "would dictation software cope?",
            "is it fit for automatic captions?",
        ),
        ("would a transcript of it be reliable?",),
    ),
    "follow": (
        (
            "can a customer understand it?", "is it easy to understand?", "can people follow what is said?",
            "is it intelligible?", "can you make out the words?", "would a listener understand it?",
            "are the words clear?", "is the speech understandable?", "can one understand the caller?",
        ),
        ("will the other side get what is being said?",),
    ),
    # of two recordings
    "better": (
        (
            "which is better?", "which recording is better?", "which one sounds better?", "which of them is better?",
            "is the first better than the second?", "is the second better?", "compare them.",
            "which one should I keep?", "compare the two recordings.",
        ),
        ("which of the two would you rather listen to?", "does the first beat the second?"),
    ),
    "better_in": (
        (
            "which has the better {title}?", "compare the {title}.", "which one is better in {title}?",
            "what about the {title} of the two?",
        ),
        ("by {title}, which one wins?",),
    ),
    "difference": (
        (
            "what is the difference?", "how do they differ?", "what is different?", "what is wrong with the two?",
            "why is one better than the other?",
        ),
        ("what does one of them have that the other has not?",),
    ),
    # whether a fault is there: the topics of `faults`
    "noise": (
        (
            "is it noisy?", "is there background noise?", "do you hear noise?", "any noise?", "is something humming?",
            "can you hear hiss or hum?", "is there noise behind the voice?", "does it hiss?", "is it full of noise?",
            "how about noise?", "is the background loud?", "do you notice any background noise?", "is there hum in it?",
            "can noise be heard?",
        ),
        ("is there a lot of noise in it?",),
    ),
    "muffled": (
        (
            "is it muffled?", "does it sound dull?", "is the treble missing?", "is it dark?", "are the highs gone?",
            "does the voice sound covered?", "is it unclear, as behind a door?", "are the high tones gone?",
            "is the sound dull?", "does it lack treble?", "is it muted?", "does it sound as if under a cover?",
        ),
        ("is it like through a blanket?",),
    ),
    "telephone": (
        (
            "is it narrowband?", "is it telephone quality?", "is it like a telephone?", "is the band narrow?",
            "does it sound thin, like a landline?", "is it 8 kHz audio?", "does it sound like a phone call?",
            "is the bandwidth small?", "is it cut to telephone band?", "is it a phone recording?",
            "does it have telephone sound?",
        ),
        ("is it an old phone line?",),
    ),
    "dropouts": (
        (
            "does it drop out?", "is it choppy?", "does it break up?", "are there dropouts?", "are there gaps?",
            "is anything missing in between?", "are words or syllables lost?", "is there packet loss?",
            "does it stutter?", "is the speech interrupted?", "do words get lost?", "does the sound go away at times?",
            "does it cut out?", "are pieces missing?", "is it broken up?", "are there holes in the speech?",
            "is the connection breaking up?",
        ),
        ("is speech cut off?",),
    ),
    "clipping": (
        (
            "is it clipped?", "is it distorted?", "is it overdriven?", "is there clipping?", "are the peaks cut?",
            "was the recording gain too high?", "is the input overloaded?", "does it crackle on loud words?",
            "are loud parts distorted?", "is the level over the limit?", "did it overload?", "is it clipping?",
            "are the waves cut off?",
        ),
        ("is it too hot?",),
    ),
    "too quiet": (
        (
            "is it too quiet?", "is the level too low?", "is it too soft?", "is it hard to hear?", "is it faint?",
            "is it quiet?", "should it be louder?", "is the volume too small?", "does it need more volume?",
            "is the speaker too quiet?", "is it barely audible?",
        ),
        ("do I have to turn it up?",),
    ),
    "too loud": (
        (
            "is it too loud?", "is the level too high?", "is it loud?", "should it be softer?", "does it blast?",
            "is the volume too big?", "does it need less volume?", "is it uncomfortably loud?",
            "is the speaker too loud?",
        ),
        ("do I have to turn it down?",),
    ),
    "echo": (
        (
            "is there an echo?", "do you hear an echo?", "does it echo?", "any echo?", "is each word heard twice?",
            "does the voice repeat itself a moment later?", "does the sound come twice?",
            "is there a repeat of the voice?", "can you hear an echo?", "do words return?",
        ),
        ("does the voice come back?",),
    ),
    "reverb": (
        (
            "is it reverberant?", "is there much reverb?", "do you hear the room?", "is it a big room?",
            "was it recorded in a bathroom?", "is the talker far from the microphone?", "does the room ring?",
            "does it sound like a hall?", "is there a lot of room in it?", "does it reverberate?",
            "is the speaker far away?",
        ),
        ("is it a bare hall?",),
    ),
    "other voices": (
        (
            "is someone else talking in the background?", "is there another talker?", "do you hear other voices?",
            "is there a second speaker?", "are other people talking?", "do you hear a crowd?", "any crosstalk?",
            "can other people be heard?", "does somebody else speak?", "is there talk in the background?",
            "are there voices behind the speaker?", "is another voice mixed in?",
        ),
        ("is more than one person speaking at once?",),
    ),
}
# fmt: on
