# Completion of llmctl for fish, made by `llmctl completions fish`.
# Use it: copy it to ~/.config/fish/completions/llmctl.fish

function __llmctl_verb -d 'The verb that stands in the line'
    for word in (commandline -opc)[2..]
        if not string match -q -- '-*' $word
            echo $word
            return
        end
    end
end

function __llmctl_is -a verb -d 'Whether the line is of that verb'
    test "$(__llmctl_verb)" = "$verb"
end

function __llmctl_after -a verb word -d 'Whether the word before the cursor is that one'
    __llmctl_is $verb; and test (commandline -opc)[-1] = $word
end

complete -c llmctl -f
complete -c llmctl -s h -l help -d 'show help'
complete -c llmctl -n '__llmctl_is ""' -l version -d 'print the version'
complete -c llmctl -n '__llmctl_is ""' -a quickstart -d 'The whole lifecycle in a minute, on data that ships with llmctl.'
complete -c llmctl -n '__llmctl_is ""' -a preprocess -d 'Read, clean, split, train or load a tokenizer, encode.'
complete -c llmctl -n '__llmctl_is ""' -a train -d 'Learn from prepared data, from random weights or given ones.'
complete -c llmctl -n '__llmctl_is ""' -a generate -d 'Text from a model.'
complete -c llmctl -n '__llmctl_is ""' -a eval -d 'Score a model or a file of predictions; gate on the score.'
complete -c llmctl -n '__llmctl_is ""' -a run -d 'The stages of a recipe in order; unchanged ones are skipped.'
complete -c llmctl -n '__llmctl_is ""' -a list -d 'The registry: models, tasks, metrics, datasets, engines.'
complete -c llmctl -n '__llmctl_is ""' -a show -d 'One entry of the registry, whole.'
complete -c llmctl -n '__llmctl_is ""' -a runs -d 'Runs under a folder: what made a model, what it scored, what differs.'
complete -c llmctl -n '__llmctl_is ""' -a doctor -d 'What this machine and installation can do, every finding with its cure.'
complete -c llmctl -n '__llmctl_is ""' -a completions -d 'The completion script of a shell.'

# quickstart
complete -c llmctl -n '__llmctl_is quickstart' -l out -x -a '(__fish_complete_directories)' -d 'the folder to make; quickstart, quickstart-2, … when not given'
complete -c llmctl -n '__llmctl_is quickstart' -l seed -x -d 'fixes everything that is drawn [default: 0]'
complete -c llmctl -n '__llmctl_is quickstart' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is quickstart' -l set -x -a 'out= seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is quickstart' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is quickstart' -l force -d 'replace what is in the way of the output'
complete -c llmctl -n '__llmctl_is quickstart' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is quickstart' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is quickstart' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is quickstart' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is quickstart' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is quickstart' -l debug -d 'show the traceback of an error'

# preprocess
complete -c llmctl -n '__llmctl_is preprocess' -F -a 'sonnets tang-poems dates-en-zh udhr-en-zh reviews'
complete -c llmctl -n '__llmctl_is preprocess' -l task -x -a 'language-modeling translation classification chat' -d 'what the records are for; a built-in data set knows its own'
complete -c llmctl -n '__llmctl_is preprocess' -l out -x -a '(__fish_complete_directories)' -d 'the folder to make'
complete -c llmctl -n '__llmctl_is preprocess' -l columns -x -d 'your names of the fields: text=body,label=stars'
complete -c llmctl -n '__llmctl_is preprocess' -l document -x -a 'line paragraph file' -d 'what one document of a plain text file is [default: file]'
complete -c llmctl -n '__llmctl_is preprocess' -l source-file -r -F -d 'source lines, aligned with --target-file'
complete -c llmctl -n '__llmctl_is preprocess' -l target-file -r -F -d 'target lines, aligned with --source-file'
complete -c llmctl -n '__llmctl_is preprocess' -l encoding -x -d 'encoding of the input files [default: utf-8]'
complete -c llmctl -n '__llmctl_is preprocess' -l on-bad-record -x -a 'fail skip reject' -d 'a bad record: stop; drop it; or keep it in rejects.jsonl and exit 10 [default: fail]'
complete -c llmctl -n '__llmctl_is preprocess' -l tokenizer -r -F -a 'bpe unigram wordpiece char word byte' -d 'trained here: bpe, unigram, wordpiece, char, word, byte; or the folder of a tokenizer or model [default: bpe]'
complete -c llmctl -n '__llmctl_is preprocess' -l vocab-size -x -d 'entries of a tokenizer trained here [default: 4096]'
complete -c llmctl -n '__llmctl_is preprocess' -l max-length -x -d 'drop records with a longer segment, in tokens'
complete -c llmctl -n '__llmctl_is preprocess' -l workers -x -d 'processes that read and encode; 0 for one a core [default: 0]'
complete -c llmctl -n '__llmctl_is preprocess' -l seed -x -d 'fixes everything that is drawn [default: 0]'
complete -c llmctl -n '__llmctl_is preprocess' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is preprocess' -l set -x -a 'inputs= task= out= columns= document= source_file= target_file= encoding= on_bad_record= tokenizer= vocab_size= max_length= block_size= splits.validation= splits.test= clean.unicode= clean.control= clean.whitespace= clean.lowercase= clean.min_chars= dedup.exact= workers= seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is preprocess' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is preprocess' -l force -d 'replace what is in the way of the output'
complete -c llmctl -n '__llmctl_is preprocess' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is preprocess' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is preprocess' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is preprocess' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is preprocess' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is preprocess' -l debug -d 'show the traceback of an error'

# train
complete -c llmctl -n '__llmctl_is train' -a '(__fish_complete_directories)'
complete -c llmctl -n '__llmctl_is train' -l data -r -F -d 'a prepared folder'
complete -c llmctl -n '__llmctl_is train' -l model -x -a 'rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base bert bert:nano bert:tiny bert:small bert:base (__fish_complete_directories)' -d 'NAME[:SIZE] for random weights, a folder for its own, hf:ID for the hub\'s'
complete -c llmctl -n '__llmctl_is train' -l out -x -a '(__fish_complete_directories)' -d 'the run folder to make'
complete -c llmctl -n '__llmctl_is train' -l epochs -x -d 'stop after so many passes; 3 when no budget is given'
complete -c llmctl -n '__llmctl_is train' -l max-steps -x -d 'stop after so many optimizer steps'
complete -c llmctl -n '__llmctl_is train' -l max-tokens -x -d 'stop after so many tokens'
complete -c llmctl -n '__llmctl_is train' -l max-time -x -d 'stop after so long: 90s, 55m'
complete -c llmctl -n '__llmctl_is train' -l batch-size -x -d 'records (blocks) of one optimizer step over all processes [default: 32]'
complete -c llmctl -n '__llmctl_is train' -l precision -x -a 'auto fp32 bf16 fp16' -d 'auto: bf16 autocast where the processor has it [default: auto]'
complete -c llmctl -n '__llmctl_is train' -l best-by -x -a 'bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1' -d 'loss, or a metric of the task, computed by generating'
complete -c llmctl -n '__llmctl_is train' -l patience -x -d 'stop after so many evaluations without a better one'
complete -c llmctl -n '__llmctl_is train' -l processes -x -d 'processes on this machine [default: 1]'
complete -c llmctl -n '__llmctl_is train' -l machines -x -d 'machines of the run, this one included [default: 1]'
complete -c llmctl -n '__llmctl_is train' -l machine-rank -x -d 'which of them this one is, from 0 [default: 0]'
complete -c llmctl -n '__llmctl_is train' -l main-address -x -d 'host[:port] of machine 0 [default: 127.0.0.1]'
complete -c llmctl -n '__llmctl_is train' -l seed -x -d 'fixes everything that is drawn [default: 0]'
complete -c llmctl -n '__llmctl_is train' -l lr -x -d 'peak learning rate; the model\'s own default when not given'
complete -c llmctl -n '__llmctl_is train' -l resume -d 'go on with the run: llmctl train --resume RUN, or the same command again'
complete -c llmctl -n '__llmctl_is train' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is train' -l set -x -a 'data= model.layers= model.hidden= model.heads= model.context= model.embedding= model.inner= model.dropout= model.activation= model.score= model.bidirectional= model.name= out= epochs= max_steps= max_tokens= max_time= batch_size= micro_batch_size= optimizer.name= optimizer.lr= optimizer.weight_decay= optimizer.betas= optimizer.eps= schedule.name= schedule.warmup_steps= schedule.min_lr= clip_norm= precision= best_by= best_by_limit= patience= eval_every= save_every= keep_checkpoints= log_every= max_length= compile= processes= machines= machine_rank= main_address= seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is train' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is train' -l force -d 'replace what is in the way of the output'
complete -c llmctl -n '__llmctl_is train' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is train' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is train' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is train' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is train' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is train' -l debug -d 'show the traceback of an error'

# generate
complete -c llmctl -n '__llmctl_is generate' -l model -x -a '(__fish_complete_directories)' -d 'a run, a model folder, or hf:ID'
complete -c llmctl -n '__llmctl_is generate' -l task -x -a 'language-modeling translation classification chat' -d 'how to put the prompt; the model folder knows'
complete -c llmctl -n '__llmctl_is generate' -l prompt -x -d 'what to answer or continue; repeatable'
complete -c llmctl -n '__llmctl_is generate' -l input -r -F -d 'a file of prompts or records, - for standard input'
complete -c llmctl -n '__llmctl_is generate' -l output -r -F -d 'a JSONL file of answers, one row for every input row'
complete -c llmctl -n '__llmctl_is generate' -l max-new-tokens -x -d 'longest answer in tokens [default: 128]'
complete -c llmctl -n '__llmctl_is generate' -l stop -x -d 'end an answer before this text; repeatable'
complete -c llmctl -n '__llmctl_is generate' -l temperature -x -d 'sample with this temperature; 0 is greedy'
complete -c llmctl -n '__llmctl_is generate' -l top-k -x -d 'sample among the k likeliest tokens'
complete -c llmctl -n '__llmctl_is generate' -l top-p -x -d 'sample among the likeliest tokens of this mass'
complete -c llmctl -n '__llmctl_is generate' -l num-beams -x -d 'beams of a beam search [default: 1]'
complete -c llmctl -n '__llmctl_is generate' -l num-samples -x -d 'answers to each prompt [default: 1]'
complete -c llmctl -n '__llmctl_is generate' -l batch-size -x -d 'prompts answered at once [default: 32]'
complete -c llmctl -n '__llmctl_is generate' -l seed -x -d 'fixes everything that is drawn [default: 0]'
complete -c llmctl -n '__llmctl_is generate' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is generate' -l set -x -a 'model= task= prompt= input= output= max_new_tokens= stop= temperature= top_k= top_p= min_p= repetition_penalty= num_beams= length_penalty= num_samples= batch_size= precision= engine= seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is generate' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is generate' -l force -d 'replace what is in the way of the output'
complete -c llmctl -n '__llmctl_is generate' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is generate' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is generate' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is generate' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is generate' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is generate' -l debug -d 'show the traceback of an error'

# eval
complete -c llmctl -n '__llmctl_is eval' -l model -x -a '(__fish_complete_directories)' -d 'a run or model folder'
complete -c llmctl -n '__llmctl_is eval' -l data -r -F -d 'a prepared folder, or a file of records'
complete -c llmctl -n '__llmctl_is eval' -l split -x -a 'train validation test' -d 'of a prepared folder [default: test]'
complete -c llmctl -n '__llmctl_is eval' -l predictions -r -F -d '.txt (one a line) or .jsonl'
complete -c llmctl -n '__llmctl_is eval' -l references -r -F -d '.txt or .jsonl; repeat for several right answers'
complete -c llmctl -n '__llmctl_is eval' -l metric -x -a 'bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1' -d 'bleu, or with options bleu:tokenize=zh; repeatable'
complete -c llmctl -n '__llmctl_is eval' -l require -x -d 'a gate: \'bleu>=20\'; not met is exit 10; repeatable'
complete -c llmctl -n '__llmctl_is eval' -l baseline -r -F -d 'other predictions, compared in pairs: \'bleu>=baseline-0.5\''
complete -c llmctl -n '__llmctl_is eval' -l junit -r -F -d 'write scores and gates as JUnit XML'
complete -c llmctl -n '__llmctl_is eval' -l markdown -r -F -d 'write scores and gates as a Markdown table'
complete -c llmctl -n '__llmctl_is eval' -l limit -x -d 'score the first so many records'
complete -c llmctl -n '__llmctl_is eval' -l out -x -a '(__fish_complete_directories)' -d 'folder for scores.json and predictions.jsonl'
complete -c llmctl -n '__llmctl_is eval' -l batch-size -x -d 'records at once [default: 32]'
complete -c llmctl -n '__llmctl_is eval' -l seed -x -d 'fixes everything that is drawn [default: 0]'
complete -c llmctl -n '__llmctl_is eval' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is eval' -l set -x -a 'model= data= split= task= predictions= references= metric= require= baseline= junit= markdown= interval.level= interval.resamples= limit= out= max_new_tokens= num_beams= window= batch_size= precision= engine= seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is eval' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is eval' -l force -d 'replace what is in the way of the output'
complete -c llmctl -n '__llmctl_is eval' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is eval' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is eval' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is eval' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is eval' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is eval' -l debug -d 'show the traceback of an error'

# run
complete -c llmctl -n '__llmctl_is run' -F
complete -c llmctl -n '__llmctl_is run' -l seed -x -d 'of every stage; fixes everything that is drawn'
complete -c llmctl -n '__llmctl_is run' -l config -r -F -d 'a recipe; repeatable, later ones win'
complete -c llmctl -n '__llmctl_is run' -l set -x -a 'preprocess.inputs= preprocess.task= preprocess.out= preprocess.columns= preprocess.document= preprocess.source_file= preprocess.target_file= preprocess.encoding= preprocess.on_bad_record= preprocess.tokenizer= preprocess.vocab_size= preprocess.max_length= preprocess.block_size= preprocess.splits.validation= preprocess.splits.test= preprocess.clean.unicode= preprocess.clean.control= preprocess.clean.whitespace= preprocess.clean.lowercase= preprocess.clean.min_chars= preprocess.dedup.exact= preprocess.workers= preprocess.seed= train.data= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.name= train.out= train.epochs= train.max_steps= train.max_tokens= train.max_time= train.batch_size= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.precision= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.compile= train.processes= train.machines= train.machine_rank= train.main_address= train.seed= generate.model= generate.task= generate.prompt= generate.input= generate.output= generate.max_new_tokens= generate.stop= generate.temperature= generate.top_k= generate.top_p= generate.min_p= generate.repetition_penalty= generate.num_beams= generate.length_penalty= generate.num_samples= generate.batch_size= generate.precision= generate.engine= generate.seed= eval.model= eval.data= eval.split= eval.task= eval.predictions= eval.references= eval.metric= eval.require= eval.baseline= eval.junit= eval.markdown= eval.interval.level= eval.interval.resamples= eval.limit= eval.out= eval.max_new_tokens= eval.num_beams= eval.window= eval.batch_size= eval.precision= eval.engine= eval.seed=' -d 'any setting: key.path=value, value in YAML; repeatable'
complete -c llmctl -n '__llmctl_is run' -l dry-run -d 'print the resolved plan, write nothing'
complete -c llmctl -n '__llmctl_is run' -l force -d 'run every stage again, whatever is in the way'
complete -c llmctl -n '__llmctl_is run' -l offline -d 'never touch the network'
complete -c llmctl -n '__llmctl_is run' -l events -r -F -d 'write progress as JSON lines; - for standard error'
complete -c llmctl -n '__llmctl_is run' -l quiet -d 'say only warnings and errors'
complete -c llmctl -n '__llmctl_is run' -l verbose -d 'say more'
complete -c llmctl -n '__llmctl_is run' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is run' -l debug -d 'show the traceback of an error'

# list
complete -c llmctl -n '__llmctl_is list' -a 'models tasks metrics datasets engines'
complete -c llmctl -n '__llmctl_is list' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is list' -l debug -d 'show the traceback of an error'

# show
complete -c llmctl -n '__llmctl_after show show' -a 'models tasks metrics datasets engines'
complete -c llmctl -n '__llmctl_after show models' -a 'rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base bert bert:nano bert:tiny bert:small bert:base'
complete -c llmctl -n '__llmctl_after show tasks' -a 'language-modeling translation classification chat'
complete -c llmctl -n '__llmctl_after show metrics' -a 'bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1'
complete -c llmctl -n '__llmctl_after show datasets' -a 'sonnets tang-poems dates-en-zh udhr-en-zh reviews'
complete -c llmctl -n '__llmctl_after show engines' -a 'torch echo'
complete -c llmctl -n '__llmctl_is show' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is show' -l debug -d 'show the traceback of an error'

# runs
complete -c llmctl -n '__llmctl_is runs' -F -a 'list show compare'
complete -c llmctl -n '__llmctl_is runs' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is runs' -l debug -d 'show the traceback of an error'

# doctor
complete -c llmctl -n '__llmctl_is doctor' -l quiet -d 'show only warnings and problems'
complete -c llmctl -n '__llmctl_is doctor' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is doctor' -l debug -d 'show the traceback of an error'

# completions
complete -c llmctl -n '__llmctl_is completions' -a 'bash zsh fish powershell'
complete -c llmctl -n '__llmctl_is completions' -l json -d 'one JSON document on standard output'
complete -c llmctl -n '__llmctl_is completions' -l debug -d 'show the traceback of an error'
