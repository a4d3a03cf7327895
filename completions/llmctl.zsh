#compdef llmctl
# Completion of llmctl for zsh, made by `llmctl completions zsh`.
# Use it: copy it as _llmctl to a folder of $fpath, or source it after compinit

_llmctl_quickstart--set() {
    compadd "$@" -S "" -- out= seed=
}
_llmctl_preprocess--task() {
    compadd "$@" -- language-modeling translation summarization question-answering classification chat
}
_llmctl_preprocess--document() {
    compadd "$@" -- line paragraph file
}
_llmctl_preprocess--on-bad-record() {
    compadd "$@" -- fail skip reject
}
_llmctl_preprocess--tokenizer() {
    compadd "$@" -- bpe unigram wordpiece char word byte
    _files
}
_llmctl_preprocess--set() {
    compadd "$@" -S "" -- inputs= task= out= columns= document= source_file= target_file= encoding= on_bad_record= tokenizer= vocab_size= max_length= block_size= splits.validation= splits.test= clean.unicode= clean.control= clean.whitespace= clean.lowercase= clean.min_chars= dedup.exact= workers= seed=
}
_llmctl_preprocess() {
    compadd "$@" -- sonnets tang-poems dates-en-zh udhr-en-zh udhr-en-de udhr-en-fr reviews trivia smalltalk-en smalltalk-zh abstracts
    _files
}
_llmctl_train--model() {
    compadd "$@" -- rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base
    _files -/
}
_llmctl_train--adapter() {
    compadd "$@" -- lora
}
_llmctl_train--precision() {
    compadd "$@" -- auto fp32 bf16 fp16
}
_llmctl_train--best-by() {
    compadd "$@" -- bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1
}
_llmctl_train--set() {
    compadd "$@" -S "" -- data= model.layers= model.hidden= model.heads= model.context= model.embedding= model.inner= model.dropout= model.activation= model.score= model.bidirectional= model.pooling= model.head= model.name= out= adapter.name= adapter.rank= adapter.alpha= adapter.dropout= adapter.targets= epochs= max_steps= max_tokens= max_time= batch_size= micro_batch_size= optimizer.name= optimizer.lr= optimizer.weight_decay= optimizer.betas= optimizer.eps= schedule.name= schedule.warmup_steps= schedule.min_lr= clip_norm= precision= best_by= best_by_limit= patience= eval_every= save_every= keep_checkpoints= log_every= max_length= corruption= instruction= compile= processes= machines= machine_rank= main_address= seed=
}
_llmctl_generate--task() {
    compadd "$@" -- language-modeling translation summarization question-answering classification chat
}
_llmctl_generate--set() {
    compadd "$@" -S "" -- model= task= prompt= input= output= explain= max_new_tokens= stop= temperature= top_k= top_p= min_p= repetition_penalty= num_beams= length_penalty= num_samples= labels= calibrate= instruction= batch_size= base= precision= engine= seed=
}
_llmctl_chat--set() {
    compadd "$@" -S "" -- model= system= max_new_tokens= stop= temperature= top_k= top_p= min_p= repetition_penalty= base= precision= engine= seed=
}
_llmctl_eval--split() {
    compadd "$@" -- train validation test
}
_llmctl_eval--metric() {
    compadd "$@" -- bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1
}
_llmctl_eval--set() {
    compadd "$@" -S "" -- model= data= split= task= predictions= references= metric= require= baseline= junit= markdown= interval.level= interval.resamples= limit= out= max_new_tokens= num_beams= labels= calibrate= instruction= window= batch_size= base= precision= engine= seed=
}
_llmctl_merge--set() {
    compadd "$@" -S "" -- model= out= base=
}
_llmctl_merge() {
    compadd "$@" -- rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base
    _files
}
_llmctl_compare--models() {
    compadd "$@" -- rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base
    _files -/
}
_llmctl_compare--precision() {
    compadd "$@" -- auto fp32 bf16
}
_llmctl_compare--metric() {
    compadd "$@" -- bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1
}
_llmctl_compare--set() {
    compadd "$@" -S "" -- data= models= out= epochs= max_steps= max_tokens= max_time= batch_size= lr= lrs= search.rates= search.share= precision= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.instruction= train.compile= train.processes= metric= limit= max_new_tokens= interval.level= interval.resamples= seed=
}
_llmctl_run--set() {
    compadd "$@" -S "" -- preprocess.inputs= preprocess.task= preprocess.out= preprocess.columns= preprocess.document= preprocess.source_file= preprocess.target_file= preprocess.encoding= preprocess.on_bad_record= preprocess.tokenizer= preprocess.vocab_size= preprocess.max_length= preprocess.block_size= preprocess.splits.validation= preprocess.splits.test= preprocess.clean.unicode= preprocess.clean.control= preprocess.clean.whitespace= preprocess.clean.lowercase= preprocess.clean.min_chars= preprocess.dedup.exact= preprocess.workers= preprocess.seed= train.data= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.model.name= train.out= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.epochs= train.max_steps= train.max_tokens= train.max_time= train.batch_size= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.precision= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.corruption= train.instruction= train.compile= train.processes= train.machines= train.machine_rank= train.main_address= train.seed= generate.model= generate.task= generate.prompt= generate.input= generate.output= generate.explain= generate.max_new_tokens= generate.stop= generate.temperature= generate.top_k= generate.top_p= generate.min_p= generate.repetition_penalty= generate.num_beams= generate.length_penalty= generate.num_samples= generate.labels= generate.calibrate= generate.instruction= generate.batch_size= generate.base= generate.precision= generate.engine= generate.seed= eval.model= eval.data= eval.split= eval.task= eval.predictions= eval.references= eval.metric= eval.require= eval.baseline= eval.junit= eval.markdown= eval.interval.level= eval.interval.resamples= eval.limit= eval.out= eval.max_new_tokens= eval.num_beams= eval.labels= eval.calibrate= eval.instruction= eval.window= eval.batch_size= eval.base= eval.precision= eval.engine= eval.seed=
}
_llmctl_list() {
    compadd "$@" -- models tasks metrics datasets engines
}
_llmctl_show--split() {
    compadd "$@" -- train validation test
}
_llmctl_show--set() {
    compadd "$@" -S "" -- preprocess.inputs= preprocess.task= preprocess.out= preprocess.columns= preprocess.document= preprocess.source_file= preprocess.target_file= preprocess.encoding= preprocess.on_bad_record= preprocess.tokenizer= preprocess.vocab_size= preprocess.max_length= preprocess.block_size= preprocess.splits.validation= preprocess.splits.test= preprocess.clean.unicode= preprocess.clean.control= preprocess.clean.whitespace= preprocess.clean.lowercase= preprocess.clean.min_chars= preprocess.dedup.exact= preprocess.workers= preprocess.seed= train.data= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.model.name= train.out= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.epochs= train.max_steps= train.max_tokens= train.max_time= train.batch_size= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.precision= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.corruption= train.instruction= train.compile= train.processes= train.machines= train.machine_rank= train.main_address= train.seed= generate.model= generate.task= generate.prompt= generate.input= generate.output= generate.explain= generate.max_new_tokens= generate.stop= generate.temperature= generate.top_k= generate.top_p= generate.min_p= generate.repetition_penalty= generate.num_beams= generate.length_penalty= generate.num_samples= generate.labels= generate.calibrate= generate.instruction= generate.batch_size= generate.base= generate.precision= generate.engine= generate.seed= eval.model= eval.data= eval.split= eval.task= eval.predictions= eval.references= eval.metric= eval.require= eval.baseline= eval.junit= eval.markdown= eval.interval.level= eval.interval.resamples= eval.limit= eval.out= eval.max_new_tokens= eval.num_beams= eval.labels= eval.calibrate= eval.instruction= eval.window= eval.batch_size= eval.base= eval.precision= eval.engine= eval.seed=
}
_llmctl_show() {
    case $words[CURRENT-1] in
    models) compadd "$@" -- rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base; return ;;
    tasks) compadd "$@" -- language-modeling translation summarization question-answering classification chat; return ;;
    metrics) compadd "$@" -- bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1; return ;;
    datasets) compadd "$@" -- sonnets tang-poems dates-en-zh udhr-en-zh udhr-en-de udhr-en-fr reviews trivia smalltalk-en smalltalk-zh abstracts; return ;;
    engines) compadd "$@" -- torch echo; return ;;
    esac
    compadd "$@" -- models tasks metrics datasets engines data
}
_llmctl_suggest--task() {
    compadd "$@" -- language-modeling translation summarization question-answering classification chat
}
_llmctl_suggest--set() {
    compadd "$@" -S "" -- task= data= memory= batch_size=
}
_llmctl_runs() {
    compadd "$@" -- list show compare
    _files
}
_llmctl_completions() {
    compadd "$@" -- bash zsh fish powershell
}

_llmctl() {
    local context state state_descr line
    typeset -A opt_args
    local -a verbs help
    help=('(-h --help)'{-h,--help}'[show help]')
    verbs=(
        'quickstart:The whole lifecycle in a minute, on data that ships with llmctl.'
        'preprocess:Read, clean, split, train or load a tokenizer, encode.'
        'train:Train on prepared data, from random or pretrained weights.'
        'generate:Generate text with a model.'
        'chat:Chat with a model; piped lines are answered one by one.'
        'eval:Score a model or a file of predictions; gate on the score.'
        'merge:Merge an adapter into its base, or convert a GGUF file.'
        'compare:Train and score several models alike; one table with the best marked.'
        'run:Run the stages of a recipe in order; skip unchanged ones.'
        'list:List models, tasks, metrics, datasets and engines.'
        'show:Describe one entry of the registry, a run or a record.'
        'suggest:Rank the models for a task on this machine, with the reasons.'
        'runs:List, show and compare the runs under a folder.'
        'doctor:Check this machine and installation, with a fix for each problem.'
        'completions:Print the completion script of a shell.'
    )
    _arguments -C $help '--version[print the version]' '1:verb:->verb' '*::word:->word'
    case $state in
    verb) _describe verb verbs ;;
    word)
        case $words[1] in
        quickstart)
            _arguments $help \
                '--out=[the folder to make; quickstart, quickstart-2, … when not given]:value:_files -/' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_quickstart--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]'
            ;;
        preprocess)
            _arguments $help \
                '--task=[what the records are for; a built-in data set knows its own]:value:_llmctl_preprocess--task' \
                '--out=[the folder to make]:value:_files -/' \
                '--columns=[your names of the fields: text=body,label=stars]:value: ' \
                '--document=[what one document of a plain text file is \[default: file\]]:value:_llmctl_preprocess--document' \
                '--source-file=[source lines, aligned with --target-file]:value:_files' \
                '--target-file=[target lines, aligned with --source-file]:value:_files' \
                '--encoding=[encoding of the input files \[default: utf-8\]]:value: ' \
                '--on-bad-record=[a bad record: stop; drop it; or keep it in rejects.jsonl and exit 10 \[default: fail\]]:value:_llmctl_preprocess--on-bad-record' \
                '--tokenizer=[trained here: bpe, unigram, wordpiece, char, word, byte; or the folder of a tokenizer or model \[default: bpe\]]:value:_llmctl_preprocess--tokenizer' \
                '--vocab-size=[entries of a tokenizer trained here \[default: 4096\]]:value: ' \
                '--max-length=[drop records with a longer segment, in tokens]:value: ' \
                '--workers=[processes that read and encode; 0 for one a core \[default: 0\]]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_preprocess--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]' \
                '*:word:_llmctl_preprocess'
            ;;
        train)
            _arguments $help \
                '--data=[a prepared folder]:value:_files' \
                '--model=[NAME\[:SIZE\] for random weights, a folder for its own, hf:ID for the hub'\''s]:value:_llmctl_train--model' \
                '--out=[the run folder to make]:value:_files -/' \
                '--adapter=[lora: learn low-rank matrices beside given weights]:value:_llmctl_train--adapter' \
                '--epochs=[stop after so many passes; 3 when no budget is given]:value: ' \
                '--max-steps=[stop after so many optimizer steps]:value: ' \
                '--max-tokens=[stop after so many tokens]:value: ' \
                '--max-time=[stop after so long: 90s, 55m]:value: ' \
                '--batch-size=[records (blocks) of one optimizer step over all processes \[default: 32\]]:value: ' \
                '--precision=[auto: bf16 autocast where the processor has it \[default: auto\]]:value:_llmctl_train--precision' \
                '--best-by=[loss, or a metric of the task, also one of its scores: rougeL]:value:_llmctl_train--best-by' \
                '--patience=[stop after so many evaluations without a better one]:value: ' \
                '--processes=[processes on this machine \[default: 1\]]:value: ' \
                '--machines=[machines of the run, this one included \[default: 1\]]:value: ' \
                '--machine-rank=[which of them this one is, from 0 \[default: 0\]]:value: ' \
                '--main-address=[host\[:port\] of machine 0 \[default: 127.0.0.1\]]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '--lr=[peak learning rate; default: derived from the model]:value: ' \
                '--resume[continue the run: llmctl train --resume RUN, or the same command again]' \
                '--measure[with --dry-run: run a few steps and discard them, to measure speed and memory]' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_train--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]' \
                '*:word:_files -/'
            ;;
        generate)
            _arguments $help \
                '--model=[a run, a model folder, or hf:ID]:value:_files -/' \
                '--task=[how to put the prompt; the model folder knows]:value:_llmctl_generate--task' \
                '*--prompt=[what to answer or continue; one prints its text, several (or a file, a pipe) JSON lines]:value: ' \
                '--input=[a file of prompts or records, - for standard input]:value:_files' \
                '--output=[a JSONL file of answers, one row for every input row]:value:_files' \
                '--explain=[draw where one answer looks in its source: an .svg or .png file; encoder-decoders]:value:_files' \
                '--max-new-tokens=[longest answer in tokens \[default: 128\]]:value: ' \
                '*--stop=[end an answer before this text; repeatable]:value: ' \
                '--temperature=[sample with this temperature; 0 is greedy]:value: ' \
                '--top-k=[sample among the k likeliest tokens]:value: ' \
                '--top-p=[sample among the likeliest tokens of this mass]:value: ' \
                '--num-beams=[beams of a beam search \[default: 1\]]:value: ' \
                '--num-samples=[answers to each prompt \[default: 1\]]:value: ' \
                '--batch-size=[prompts answered at once \[default: 32\]]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_generate--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]'
            ;;
        chat)
            _arguments $help \
                '--model=[a run, a model folder, or hf:ID]:value:_files -/' \
                '--system=[what the assistant is told before the conversation]:value: ' \
                '--max-new-tokens=[longest answer in tokens \[default: 512\]]:value: ' \
                '*--stop=[end an answer before this text; repeatable]:value: ' \
                '--temperature=[sample with this temperature; 0 is greedy]:value: ' \
                '--top-k=[sample among the k likeliest tokens]:value: ' \
                '--top-p=[sample among the likeliest tokens of this mass]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_chat--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]'
            ;;
        eval)
            _arguments $help \
                '--model=[a run or model folder]:value:_files -/' \
                '--data=[a prepared folder, or a file of records]:value:_files' \
                '--split=[of a prepared folder \[default: test\]]:value:_llmctl_eval--split' \
                '--predictions=[.txt (one a line) or .jsonl]:value:_files' \
                '*--references=[.txt or .jsonl; repeat for several right answers]:value:_files' \
                '*--metric=[bleu, or with options bleu:tokenize=zh; repeatable]:value:_llmctl_eval--metric' \
                '*--require=[a gate: '\''bleu>=20'\''; not met is exit 10; repeatable]:value: ' \
                '--baseline=[other predictions, compared in pairs: '\''bleu>=baseline-0.5'\'']:value:_files' \
                '--junit=[write scores and gates as JUnit XML]:value:_files' \
                '--markdown=[write scores and gates as a Markdown table]:value:_files' \
                '--limit=[score the first so many records]:value: ' \
                '--out=[folder for scores.json and predictions.jsonl]:value:_files -/' \
                '--batch-size=[records at once \[default: 32\]]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_eval--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]'
            ;;
        merge)
            _arguments $help \
                '--model=[a run or folder that holds an adapter, or a GGUF file]:value:_files -/' \
                '--out=[the model folder to make]:value:_files -/' \
                '--base=[the adapter'\''s base, where it is no longer where it was]:value:_files' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_merge--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]' \
                '*:word:_llmctl_merge'
            ;;
        compare)
            _arguments $help \
                '--data=[a prepared folder]:value:_files' \
                '*--models=[NAME\[:SIZE\], a folder or hf:ID; several with commas between, or repeated]:value:_llmctl_compare--models' \
                '--out=[the folder to make]:value:_files -/' \
                '--epochs=[stop after so many passes; 3 when no budget is given]:value: ' \
                '--max-steps=[stop after so many optimizer steps]:value: ' \
                '--max-tokens=[stop after so many tokens]:value: ' \
                '--max-time=[stop after so long: 90s, 55m]:value: ' \
                '--batch-size=[records (blocks) of one optimizer step \[default: 32\]]:value: ' \
                '--lr=[one peak learning rate for all models; found for each by a short search when not given]:value: ' \
                '--precision=[of training; auto: bf16 autocast where the processor has it \[default: auto\]]:value:_llmctl_compare--precision' \
                '*--metric=[of the test split, the task'\''s own when not given; repeatable]:value:_llmctl_compare--metric' \
                '--limit=[score the first so many records]:value: ' \
                '--seed=[fixes everything that is drawn \[default: 0\]]:value: ' \
                '--resume[continue: llmctl compare --resume DIR, or the same command again]' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_compare--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[replace what is in the way of the output]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]' \
                '*:word:_files -/'
            ;;
        run)
            _arguments $help \
                '--seed=[of every stage; fixes everything that is drawn]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_run--set' \
                '--dry-run[print the resolved plan, write nothing]' \
                '--force[run every stage again, whatever is in the way]' \
                '--offline[never touch the network]' \
                '--events=[write progress as JSON lines; - for standard error]:value:_files' \
                '--quiet[say only warnings and errors]' \
                '--verbose[say more]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '*:word:_files'
            ;;
        list)
            _arguments $help \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '*:word:_llmctl_list'
            ;;
        show)
            _arguments $help \
                '--index=[which record (or block), from 0]:value: ' \
                '--split=[train, validation or test]:value:_llmctl_show--split' \
                '--model=[who reads it: a run, a folder, NAME\[:SIZE\]]:value:_files' \
                '--instruction=[what it is told to do, in the place of what it learned]:value: ' \
                '--data=[what it would cost to learn this prepared data]:value:_files' \
                '--measure[with --data: make a few steps and forget them, for the time it takes]' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_show--set' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '*:word:_llmctl_show'
            ;;
        suggest)
            _arguments $help \
                '--task=[what shall be learned; prepared data knows its own]:value:_llmctl_suggest--task' \
                '--data=[a prepared folder: its size decides with]:value:_files' \
                '--memory=[memory there is, 8GiB; what is free here when not given]:value: ' \
                '--batch-size=[records (blocks) of one step \[default: 32\]]:value: ' \
                '*--config=[a recipe; repeatable, later ones win]:value:_files' \
                '*--set=[any setting: key.path=value, value in YAML; repeatable]:value:_llmctl_suggest--set' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '--help-all[list every setting too, with type and default]'
            ;;
        runs)
            _arguments $help \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '*:word:_llmctl_runs'
            ;;
        doctor)
            _arguments $help \
                '--quiet[show only warnings and problems]' \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]'
            ;;
        completions)
            _arguments $help \
                '--json[one JSON document on standard output]' \
                '--debug[show the traceback of an error]' \
                '*:word:_llmctl_completions'
            ;;
        esac
        ;;
    esac
}

# Both ways of use: as a file of $fpath, and sourced.
if [[ $funcstack[1] == _llmctl ]]; then
    _llmctl "$@"
else
    compdef _llmctl llmctl
fi
