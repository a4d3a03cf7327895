# Completion of llmctl for bash, made by `llmctl completions bash`.
# Use it: source it, or copy it to ~/.local/share/bash-completion/completions/llmctl

# Words, and files or folders, that begin with what is typed: _llmctl_offer WORDS [-f|-d]
_llmctl_offer() {
    local reply
    while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -W "$1" -- "$current")
    if [[ -n ${2-} ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen "$2" -- "$current")
    fi
}

_llmctl() {
    local current="" previous="" verb="" joined=() word i
    COMPREPLY=()
    # bash breaks words at : and =; put gpt2:tiny and --model=gpt2 together again.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((${#joined[@]} > 1)) && [[ $word == [:=]* || ${joined[${#joined[@]} - 1]} == *[:=] ]]; then
            joined[${#joined[@]} - 1]+=$word
        else
            joined+=("$word")
        fi
    done
    current=${joined[${#joined[@]} - 1]}
    previous=${joined[${#joined[@]} - 2]}
    for word in "${joined[@]:1:${#joined[@]}-2}"; do
        if [[ $word != -* ]]; then verb=$word; break; fi
    done
    local typed=$current
    if [[ $current == --*=* ]]; then previous=${current%%=*} current=${current#*=}; fi
    _llmctl_"${verb:-verbs}" 2>/dev/null
    # What bash holds for another word must not come twice.
    if [[ $typed != "${COMP_WORDS[COMP_CWORD]}" ]]; then
        local kept=${current%"${current##*[:=]}"}
        COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    fi
}

_llmctl_verbs() {
    _llmctl_offer "quickstart preprocess train generate chat eval merge compare run list show suggest runs doctor completions --help --version"
}

_llmctl_quickstart() {
    case $previous in
    --out) _llmctl_offer "" -d; return ;;
    --seed) return ;;
    --config | --events) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "out= seed="; return ;;
    esac
    _llmctl_offer "--out --seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"
}

_llmctl_preprocess() {
    case $previous in
    --task) _llmctl_offer "language-modeling translation summarization question-answering classification chat"; return ;;
    --out) _llmctl_offer "" -d; return ;;
    --columns | --encoding | --vocab-size | --max-length | --workers | --seed) return ;;
    --document) _llmctl_offer "line paragraph file"; return ;;
    --source-file | --target-file | --config | --events) _llmctl_offer "" -f; return ;;
    --on-bad-record) _llmctl_offer "fail skip reject"; return ;;
    --tokenizer) _llmctl_offer "bpe unigram wordpiece char word byte" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "inputs= task= out= columns= document= source_file= target_file= encoding= on_bad_record= tokenizer= vocab_size= max_length= block_size= splits.validation= splits.test= clean.unicode= clean.control= clean.whitespace= clean.lowercase= clean.min_chars= dedup.exact= workers= seed="; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--task --out --columns --document --source-file --target-file --encoding --on-bad-record --tokenizer --vocab-size --max-length --workers --seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"; return; fi
    _llmctl_offer "sonnets tang-poems dates-en-zh udhr-en-zh udhr-en-de udhr-en-fr reviews trivia smalltalk-en smalltalk-zh abstracts" -f
}

_llmctl_train() {
    case $previous in
    --data | --config | --events) _llmctl_offer "" -f; return ;;
    --model) _llmctl_offer "rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base" -d; return ;;
    --out) _llmctl_offer "" -d; return ;;
    --adapter) _llmctl_offer "lora"; return ;;
    --epochs | --max-steps | --max-tokens | --max-time | --batch-size | --patience | --processes | --machines | --machine-rank | --main-address | --seed | --lr) return ;;
    --precision) _llmctl_offer "auto fp32 bf16 fp16"; return ;;
    --best-by) _llmctl_offer "bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1"; return ;;
    --set) compopt -o nospace; _llmctl_offer "data= model.layers= model.hidden= model.heads= model.context= model.embedding= model.inner= model.dropout= model.activation= model.score= model.bidirectional= model.pooling= model.head= model.name= out= adapter.name= adapter.rank= adapter.alpha= adapter.dropout= adapter.targets= epochs= max_steps= max_tokens= max_time= batch_size= micro_batch_size= optimizer.name= optimizer.lr= optimizer.weight_decay= optimizer.betas= optimizer.eps= schedule.name= schedule.warmup_steps= schedule.min_lr= clip_norm= precision= best_by= best_by_limit= patience= eval_every= save_every= keep_checkpoints= log_every= max_length= noise_density= instruction= compile= processes= machines= machine_rank= main_address= seed="; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--data --model --out --adapter --epochs --max-steps --max-tokens --max-time --batch-size --precision --best-by --patience --processes --machines --machine-rank --main-address --seed --lr --resume --measure --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"; return; fi
    _llmctl_offer "" -d
}

_llmctl_generate() {
    case $previous in
    --model) _llmctl_offer "" -d; return ;;
    --task) _llmctl_offer "language-modeling translation summarization question-answering classification chat"; return ;;
    --prompt | --max-new-tokens | --stop | --temperature | --top-k | --top-p | --num-beams | --num-samples | --batch-size | --seed) return ;;
    --input | --output | --explain | --config | --events) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "model= task= prompt= input= output= explain= max_new_tokens= stop= temperature= top_k= top_p= min_p= repetition_penalty= num_beams= length_penalty= num_samples= labels= calibrate= instruction= batch_size= base= precision= engine= seed="; return ;;
    esac
    _llmctl_offer "--model --task --prompt --input --output --explain --max-new-tokens --stop --temperature --top-k --top-p --num-beams --num-samples --batch-size --seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"
}

_llmctl_chat() {
    case $previous in
    --model) _llmctl_offer "" -d; return ;;
    --system | --max-new-tokens | --stop | --temperature | --top-k | --top-p | --seed) return ;;
    --config | --events) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "model= system= max_new_tokens= stop= temperature= top_k= top_p= min_p= repetition_penalty= base= precision= engine= seed="; return ;;
    esac
    _llmctl_offer "--model --system --max-new-tokens --stop --temperature --top-k --top-p --seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"
}

_llmctl_eval() {
    case $previous in
    --model | --out) _llmctl_offer "" -d; return ;;
    --data | --predictions | --references | --baseline | --junit | --markdown | --config | --events) _llmctl_offer "" -f; return ;;
    --split) _llmctl_offer "train validation test"; return ;;
    --metric) _llmctl_offer "bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1"; return ;;
    --require | --limit | --batch-size | --seed) return ;;
    --set) compopt -o nospace; _llmctl_offer "model= data= split= task= predictions= references= metric= require= baseline= junit= markdown= interval.level= interval.resamples= limit= out= max_new_tokens= num_beams= labels= calibrate= instruction= window= batch_size= base= precision= engine= seed="; return ;;
    esac
    _llmctl_offer "--model --data --split --predictions --references --metric --require --baseline --junit --markdown --limit --out --batch-size --seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"
}

_llmctl_merge() {
    case $previous in
    --model | --out) _llmctl_offer "" -d; return ;;
    --base | --config | --events) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "model= out= base="; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--model --out --base --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"; return; fi
    _llmctl_offer "rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base" -f
}

_llmctl_compare() {
    case $previous in
    --data | --config | --events) _llmctl_offer "" -f; return ;;
    --models) _llmctl_offer "rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base" -d; return ;;
    --out) _llmctl_offer "" -d; return ;;
    --epochs | --max-steps | --max-tokens | --max-time | --batch-size | --lr | --limit | --seed) return ;;
    --precision) _llmctl_offer "auto fp32 bf16"; return ;;
    --metric) _llmctl_offer "bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1"; return ;;
    --set) compopt -o nospace; _llmctl_offer "data= models= out= epochs= max_steps= max_tokens= max_time= batch_size= lr= lrs= search.rates= search.share= precision= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.instruction= train.compile= train.processes= metric= limit= max_new_tokens= interval.level= interval.resamples= seed="; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--data --models --out --epochs --max-steps --max-tokens --max-time --batch-size --lr --precision --metric --limit --seed --resume --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help-all --help"; return; fi
    _llmctl_offer "" -d
}

_llmctl_run() {
    case $previous in
    --seed) return ;;
    --config | --events) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "preprocess.inputs= preprocess.task= preprocess.out= preprocess.columns= preprocess.document= preprocess.source_file= preprocess.target_file= preprocess.encoding= preprocess.on_bad_record= preprocess.tokenizer= preprocess.vocab_size= preprocess.max_length= preprocess.block_size= preprocess.splits.validation= preprocess.splits.test= preprocess.clean.unicode= preprocess.clean.control= preprocess.clean.whitespace= preprocess.clean.lowercase= preprocess.clean.min_chars= preprocess.dedup.exact= preprocess.workers= preprocess.seed= train.data= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.model.name= train.out= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.epochs= train.max_steps= train.max_tokens= train.max_time= train.batch_size= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.precision= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.noise_density= train.instruction= train.compile= train.processes= train.machines= train.machine_rank= train.main_address= train.seed= generate.model= generate.task= generate.prompt= generate.input= generate.output= generate.explain= generate.max_new_tokens= generate.stop= generate.temperature= generate.top_k= generate.top_p= generate.min_p= generate.repetition_penalty= generate.num_beams= generate.length_penalty= generate.num_samples= generate.labels= generate.calibrate= generate.instruction= generate.batch_size= generate.base= generate.precision= generate.engine= generate.seed= eval.model= eval.data= eval.split= eval.task= eval.predictions= eval.references= eval.metric= eval.require= eval.baseline= eval.junit= eval.markdown= eval.interval.level= eval.interval.resamples= eval.limit= eval.out= eval.max_new_tokens= eval.num_beams= eval.labels= eval.calibrate= eval.instruction= eval.window= eval.batch_size= eval.base= eval.precision= eval.engine= eval.seed="; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--seed --config --set --dry-run --force --offline --events --quiet --verbose --json --debug --help"; return; fi
    _llmctl_offer "" -f
}

_llmctl_list() {
    if [[ $current == -* ]]; then _llmctl_offer "--json --debug --help"; return; fi
    _llmctl_offer "models tasks metrics datasets engines"
}

_llmctl_show() {
    case $previous in
    --index | --instruction) return ;;
    --split) _llmctl_offer "train validation test"; return ;;
    --model | --data) _llmctl_offer "" -f; return ;;
    --set) compopt -o nospace; _llmctl_offer "preprocess.inputs= preprocess.task= preprocess.out= preprocess.columns= preprocess.document= preprocess.source_file= preprocess.target_file= preprocess.encoding= preprocess.on_bad_record= preprocess.tokenizer= preprocess.vocab_size= preprocess.max_length= preprocess.block_size= preprocess.splits.validation= preprocess.splits.test= preprocess.clean.unicode= preprocess.clean.control= preprocess.clean.whitespace= preprocess.clean.lowercase= preprocess.clean.min_chars= preprocess.dedup.exact= preprocess.workers= preprocess.seed= train.data= train.model.layers= train.model.hidden= train.model.heads= train.model.context= train.model.embedding= train.model.inner= train.model.dropout= train.model.activation= train.model.score= train.model.bidirectional= train.model.pooling= train.model.head= train.model.name= train.out= train.adapter.name= train.adapter.rank= train.adapter.alpha= train.adapter.dropout= train.adapter.targets= train.epochs= train.max_steps= train.max_tokens= train.max_time= train.batch_size= train.micro_batch_size= train.optimizer.name= train.optimizer.lr= train.optimizer.weight_decay= train.optimizer.betas= train.optimizer.eps= train.schedule.name= train.schedule.warmup_steps= train.schedule.min_lr= train.clip_norm= train.precision= train.best_by= train.best_by_limit= train.patience= train.eval_every= train.save_every= train.keep_checkpoints= train.log_every= train.max_length= train.noise_density= train.instruction= train.compile= train.processes= train.machines= train.machine_rank= train.main_address= train.seed= generate.model= generate.task= generate.prompt= generate.input= generate.output= generate.explain= generate.max_new_tokens= generate.stop= generate.temperature= generate.top_k= generate.top_p= generate.min_p= generate.repetition_penalty= generate.num_beams= generate.length_penalty= generate.num_samples= generate.labels= generate.calibrate= generate.instruction= generate.batch_size= generate.base= generate.precision= generate.engine= generate.seed= eval.model= eval.data= eval.split= eval.task= eval.predictions= eval.references= eval.metric= eval.require= eval.baseline= eval.junit= eval.markdown= eval.interval.level= eval.interval.resamples= eval.limit= eval.out= eval.max_new_tokens= eval.num_beams= eval.labels= eval.calibrate= eval.instruction= eval.window= eval.batch_size= eval.base= eval.precision= eval.engine= eval.seed="; return ;;
    models) _llmctl_offer "rnn rnn:nano rnn:tiny rnn:small rnn:base lstm lstm:nano lstm:tiny lstm:small lstm:base attention attention:nano attention:tiny attention:small attention:base gpt2 gpt2:nano gpt2:tiny gpt2:small gpt2:base llama llama:nano llama:tiny llama:small llama:base lstm-seq2seq lstm-seq2seq:nano lstm-seq2seq:tiny lstm-seq2seq:small lstm-seq2seq:base lstm-classifier lstm-classifier:nano lstm-classifier:tiny lstm-classifier:small lstm-classifier:base t5 t5:nano t5:tiny t5:small t5:base marian marian:nano marian:tiny marian:small marian:base bart bart:nano bart:tiny bart:small bart:base bert bert:nano bert:tiny bert:small bert:base"; return ;;
    tasks) _llmctl_offer "language-modeling translation summarization question-answering classification chat"; return ;;
    metrics) _llmctl_offer "bleu chrf ter rouge perplexity bits_per_byte accuracy macro_f1 exact_match f1"; return ;;
    datasets) _llmctl_offer "sonnets tang-poems dates-en-zh udhr-en-zh udhr-en-de udhr-en-fr reviews trivia smalltalk-en smalltalk-zh abstracts"; return ;;
    engines) _llmctl_offer "torch echo"; return ;;
    esac
    if [[ $current == -* ]]; then _llmctl_offer "--index --split --model --instruction --data --measure --set --json --debug --help"; return; fi
    _llmctl_offer "models tasks metrics datasets engines data"
}

_llmctl_suggest() {
    case $previous in
    --task) _llmctl_offer "language-modeling translation summarization question-answering classification chat"; return ;;
    --data | --config) _llmctl_offer "" -f; return ;;
    --memory | --batch-size) return ;;
    --set) compopt -o nospace; _llmctl_offer "task= data= memory= batch_size="; return ;;
    esac
    _llmctl_offer "--task --data --memory --batch-size --config --set --json --debug --help-all --help"
}

_llmctl_runs() {
    if [[ $current == -* ]]; then _llmctl_offer "--json --debug --help"; return; fi
    _llmctl_offer "list show compare" -f
}

_llmctl_doctor() {
    _llmctl_offer "--quiet --json --debug --help"
}

_llmctl_completions() {
    if [[ $current == -* ]]; then _llmctl_offer "--json --debug --help"; return; fi
    _llmctl_offer "bash zsh fish powershell"
}

complete -F _llmctl llmctl
